# shellcheck shell=bash
# A boot server in the far namespace. It gives by DHCP an address and, by TFTP, first the program that
# loads the rest to firmware that is not iPXE itself (UEFI), then iPXE's script; the kernel and the
# initramfs, which guest_start gives QEMU otherwise, come by HTTP.
#
# So several drivers use one connection, one after the other: the firmware's and Linux's.
#
#   netboot_serve          starts the servers (until lab_close); then guest_start with
#                          GUEST_BOOT=network or GUEST_BOOT=uefi
#   netboot_log            prints what was asked for and sent
#   netboot_append WORDS   gives the next boot other words on the kernel command line. With
#                          virtio_pci.force_legacy=1 Linux drives the same device as a virtio 0.9
#                          one; a reboot without it changes the header size on one connection.

netboot_serve() {
  local folder=$LAB_DIR/netboot kernel
  kernel=$(guest_kernel_folder)
  mkdir "$folder"
  ln -s "$kernel/vmlinuz" "$kernel/initramfs.cpio.gz" "$GUEST_CACHE/uefi/ipxe.efi" "$folder/"
  netboot_append "${GUEST_APPEND:-}"
  lab_background netns_far dnsmasq --no-daemon --conf-file=/dev/null --port=0 --user=root \
    --interface=peer0 --bind-interfaces --log-dhcp --dhcp-leasefile="$folder/leases" \
    --dhcp-range="$LAB_GUEST_ADDRESS,$LAB_GUEST_ADDRESS,255.255.255.0" \
    --dhcp-userclass=set:ipxe,iPXE --dhcp-boot='tag:!ipxe,ipxe.efi' \
    --dhcp-boot=tag:ipxe,boot.ipxe --enable-tftp --tftp-root="$folder" \
    >"$folder/dnsmasq.log" 2>&1
  lab_background netns_far busybox httpd -f -vv -p "$LAB_FAR_ADDRESS:8080" -h "$folder" \
    >"$folder/httpd.log" 2>&1
}

netboot_log() {
  cat "$LAB_DIR/netboot/"{dnsmasq,httpd}.log
}

netboot_append() {
  cat >"$LAB_DIR/netboot/boot.ipxe" <<EOF
#!ipxe
kernel http://$LAB_FAR_ADDRESS:8080/vmlinuz initrd=initramfs.cpio.gz $(GUEST_APPEND=$1 guest_command_line)
initrd http://$LAB_FAR_ADDRESS:8080/initramfs.cpio.gz
boot
EOF
}
