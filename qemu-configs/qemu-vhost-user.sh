#!/usr/bin/env bash
# A QEMU guest whose network device is served by vhost-user-xdp.
#
#   vhost-user-xdp --socket-path=/run/vhost-user-xdp.sock --interface=eth1 --mac=52:54:00:12:34:56 &
#   SOCKET=/run/vhost-user-xdp.sock qemu-configs/qemu-vhost-user.sh -drive file=disk.qcow2,if=virtio
#
# The variables below are set from the environment; the arguments go to QEMU as they are. The
# demo and the system tests of this project start their guests with this file. Tried with QEMU 10.0.
set -euo pipefail

QEMU=${QEMU:-qemu-system-x86_64}

# The daemon's --socket-path. Without a daemon QEMU waits before it boots the guest; when the daemon
# is restarted later, QEMU connects again by itself (the guest sees its link go down and up).
SOCKET=${SOCKET:-/run/vhost-user-xdp.sock}

# Must be --mac of the daemon, unless the daemon runs with --dedicated: QEMU tells it to nobody.
MAC=${MAC:-52:54:00:12:34:56}

# Queue pairs: --queues of the daemon at most. One vCPU per pair is what the guest can use.
QUEUES=${QUEUES:-1}
CPUS=${CPUS:-$QUEUES}

# The daemon maps the guest's memory: it has to be shared (share=on). Huge pages are not needed; with
# MEMORY_OPTIONS=,hugetlb=on,hugetlbsize=2M the guest gets some that were reserved (vm.nr_hugepages).
MEMORY=${MEMORY:-1G}
MEMORY_OPTIONS=${MEMORY_OPTIONS:-}

# kvm, or tcg,thread=multi (emulation) where the machine has none.
if [[ -z ${ACCEL:-} ]]; then
  if [[ -w /dev/kvm ]]; then ACCEL=kvm; else ACCEL=tcg,thread=multi; fi
fi
CPU_MODEL=${CPU_MODEL:-$([[ $ACCEL == kvm* ]] && echo host || echo max)}

# More properties of the device, each with a comma before it; for instance:
#   ,packed=on            packed virtqueues
#   ,mrg_rxbuf=off        a receive buffer must hold a whole frame
#   ,disable-modern=on    a virtio 0.9 device ("legacy")
#   ,host_mtu=1500        tell the guest an MTU
DEVICE_OPTIONS=${DEVICE_OPTIONS:-}

# Ring sizes: 256 is QEMU's default; 1024 carries a burst without loss.
RING_SIZE=${RING_SIZE:-1024}

# Multiqueue needs an interrupt vector for each ring, and one each for configuration and control.
if ((QUEUES > 1)); then
  DEVICE_OPTIONS=,mq=on,vectors=$((2 * QUEUES + 2))$DEVICE_OPTIONS
fi

# The device behind an IOMMU of the guest, whose kernel then needs intel_iommu=on:
#   IOMMU=intel-iommu,device-iotlb=on,intremap=off
# It has to be made before the devices behind it.
IOMMU=${IOMMU:-}
[[ -z $IOMMU ]] || DEVICE_OPTIONS=,disable-legacy=on,iommu_platform=on,ats=on$DEVICE_OPTIONS

# Before QEMU 9.2 this was called reconnect, in seconds: RECONNECT=reconnect=1.
RECONNECT=${RECONNECT:-reconnect-ms=200}

exec "$QEMU" \
  -machine q35,memory-backend=memory -accel "$ACCEL" -cpu "$CPU_MODEL" -smp "$CPUS" -m "$MEMORY" \
  ${IOMMU:+-device "$IOMMU"} \
  -object "memory-backend-memfd,id=memory,size=$MEMORY,share=on$MEMORY_OPTIONS" \
  -chardev "socket,id=vhost-user,path=$SOCKET,$RECONNECT" \
  -netdev "vhost-user,id=net,chardev=vhost-user,queues=$QUEUES" \
  -device "virtio-net-pci,id=nic,netdev=net,mac=$MAC,rx_queue_size=$RING_SIZE,tx_queue_size=$RING_SIZE$DEVICE_OPTIONS" \
  "$@"
