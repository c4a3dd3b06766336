#!/usr/bin/env bash
# DPDK as the front-end: dpdk-testpmd with its virtio-user port connected to vhost-user-xdp.
#
#   vhost-user-xdp --socket-path=/run/vhost-user-xdp.sock --interface=eth1 --dedicated &
#   SOCKET=/run/vhost-user-xdp.sock qemu-configs/dpdk-virtio-user.sh --forward-mode=txonly
#
# The variables below are set from the environment; the arguments go to testpmd as they are.
# It runs until its standard input ends. Tried with DPDK 22.11.
set -euo pipefail

TESTPMD=${TESTPMD:-dpdk-testpmd}
SOCKET=${SOCKET:-/run/vhost-user-xdp.sock}
MAC=${MAC:-52:54:00:12:34:57}
QUEUES=${QUEUES:-1}
RING_SIZE=${RING_SIZE:-1024}

# Two lcores: the first for testpmd's own command line, the second forwards.
LCORES=${LCORES:-0,1}

# More device properties, each with a comma before it: ,mrg_rxbuf=0  ,in_order=0  ,packed_vq=1
DEVICE_OPTIONS=${DEVICE_OPTIONS:-}

# The daemon maps testpmd's memory, so it has to be memory that can be sent as a file. Tried:
#   --no-huge -m 512                                works: one memfd
#   --in-memory --single-file-segments -m 256       works: huge pages, with or without a mount
#   --in-memory -m 256                              starts and moves nothing: a file for each page
#                                                   is more than the 8 regions that may be announced
MEMORY_OPTIONS=${MEMORY_OPTIONS:---no-huge -m 512}

# shellcheck disable=SC2086 # options
exec "$TESTPMD" -l "$LCORES" $MEMORY_OPTIONS --no-pci --file-prefix="virtio-user-$$" \
  --vdev="net_virtio_user0,path=$SOCKET,mac=$MAC,queues=$QUEUES,queue_size=$RING_SIZE$DEVICE_OPTIONS" \
  -- --rxq="$QUEUES" --txq="$QUEUES" --txd="$RING_SIZE" --rxd="$RING_SIZE" \
  --total-num-mbufs=8192 "$@"
