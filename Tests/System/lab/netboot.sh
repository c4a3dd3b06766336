# shellcheck shell=bash
# A boot server in the far namespace: the guest's iPXE, in the boot ROM of its NIC, gets an address by
# DHCP and fetches by HTTP the kernel and the initramfs that guest_start gives QEMU otherwise.
#
# Two drivers then use one connection, one after the other: iPXE's and Linux's.
#
#   netboot_serve          starts the servers (until lab_close); then GUEST_BOOT=network guest_start
#   netboot_append WORDS   gives the next boot other words on the kernel command line. With
#                          virtio_pci.force_legacy=1 Linux drives the same device as a virtio 0.9
#                          one; a reboot without it changes the header size on one connection.

netboot_serve() {
  local folder=$LAB_DIR/netboot
  mkdir "$folder"
  ln -s "$GUEST_CACHE/vmlinuz" "$GUEST_CACHE/initramfs.cpio.gz" "$folder/"
  netboot_append "${GUEST_APPEND:-}"
  cat >"$folder/udhcpd.conf" <<EOF
interface peer0
start $LAB_GUEST_ADDRESS
end $LAB_GUEST_ADDRESS
boot_file http://$LAB_FAR_ADDRESS:8080/boot.ipxe
lease_file $folder/leases
pidfile $folder/udhcpd.pid
option subnet 255.255.255.0
EOF
  : >"$folder/leases"
  lab_background netns_far busybox udhcpd -f "$folder/udhcpd.conf" >"$folder/udhcpd.log" 2>&1
  lab_background netns_far busybox httpd -f -p "$LAB_FAR_ADDRESS:8080" -h "$folder" \
    >"$folder/httpd.log" 2>&1
}

netboot_append() {
  cat >"$LAB_DIR/netboot/boot.ipxe" <<EOF
#!ipxe
kernel vmlinuz initrd=initramfs.cpio.gz $(GUEST_APPEND=$1 guest_command_line)
initrd initramfs.cpio.gz
boot
EOF
}
