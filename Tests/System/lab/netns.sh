# shellcheck shell=bash
# Two network namespaces joined by a veth pair: the wire that the lab tests against.
#
#   NAME-near: nic0, the NIC that the daemon owns; it has no address    | veth
#   NAME-far:  peer0, the other host, 10.77.0.1/24 and fd77::1/64       | pair
#
# Both ends are made inside their namespace: the machine's own namespace and NICs are not
# touched. The guest's address is 10.77.0.2/24, fd77::2/64.
#
#   netns_create NAME [QUEUES] [MTU]   makes both (1 queue, MTU 1500) and sets the variables
#                                      NETNS_NEAR, NETNS_FAR; NAME must be unique on the machine
#   netns_use NAME                     only sets those variables, for an existing pair
#   netns_remove NAME                  ends what runs in them, and removes them; never fails
#   netns_near COMMAND...              runs COMMAND in the near namespace
#   netns_far COMMAND...               runs COMMAND in the far namespace
#   netns_counter near|far COUNTER     prints a counter of the interface, such as rx_packets
#   netns_leftovers NAME               prints what is left of the pair; nothing when it is clean

# shellcheck disable=SC2034 # used by those who source this file
readonly LAB_FAR_ADDRESS=10.77.0.1 LAB_GUEST_ADDRESS=10.77.0.2 LAB_PREFIX=24
# shellcheck disable=SC2034
readonly LAB_FAR_ADDRESS6=fd77::1 LAB_GUEST_ADDRESS6=fd77::2 LAB_PREFIX6=64

netns_use() {
  NETNS_NEAR=$1-near
  NETNS_FAR=$1-far
}

netns_create() {
  local name=$1 queues=${2:-1} mtu=${3:-1500} namespace
  netns_use "$name"
  for namespace in "$NETNS_NEAR" "$NETNS_FAR"; do
    ip netns add "$namespace" || return
    # Only the frames that a test sends are to be on the wire: no neighbour discovery.
    ip netns exec "$namespace" sysctl -qw net.ipv6.conf.default.disable_ipv6=1 \
      net.ipv6.conf.all.disable_ipv6=1 || return
    ip -n "$namespace" link set lo up || return
  done
  # As many queues each way: native XDP wants a receive queue for each transmit queue of the peer.
  ip -n "$NETNS_NEAR" link add nic0 mtu "$mtu" numtxqueues "$queues" numrxqueues "$queues" \
    type veth peer name peer0 netns "$NETNS_FAR" mtu "$mtu" \
    numtxqueues "$queues" numrxqueues "$queues" || return
  # A local peer leaves TCP and UDP checksums to a NIC that is not there. `tx off` makes it
  # write them, and with them goes segmentation offload, whose frames AF_XDP could not take.
  netns_far ethtool -K peer0 tx off >/dev/null || return
  netns_far sysctl -qw net.ipv6.conf.peer0.disable_ipv6=0 net.ipv6.conf.peer0.accept_dad=0 \
    net.ipv6.conf.peer0.router_solicitations=0 || return
  ip -n "$NETNS_FAR" address add "$LAB_FAR_ADDRESS/$LAB_PREFIX" dev peer0 || return
  ip -n "$NETNS_FAR" address add "$LAB_FAR_ADDRESS6/$LAB_PREFIX6" dev peer0 nodad || return
  ip -n "$NETNS_NEAR" link set nic0 up || return
  ip -n "$NETNS_FAR" link set peer0 up
}

netns_near() {
  ip netns exec "$NETNS_NEAR" "$@"
}

netns_far() {
  ip netns exec "$NETNS_FAR" "$@"
}

netns_counter() {
  case $1 in
    near) netns_near cat "/sys/class/net/nic0/statistics/$2" ;;
    far) netns_far cat "/sys/class/net/peer0/statistics/$2" ;;
  esac
}

netns_remove() {
  local namespace pids try
  for namespace in "$1-near" "$1-far"; do
    [[ -e /run/netns/$namespace ]] || continue
    for try in TERM TERM KILL KILL; do
      pids=$(ip netns pids "$namespace" 2>/dev/null) || pids=
      [[ -n $pids ]] || break
      # shellcheck disable=SC2086 # a list
      kill -"$try" $pids 2>/dev/null || true
      sleep 0.3
    done
    ip netns delete "$namespace" || true
  done
}

netns_leftovers() {
  ip netns list | grep -E "^$1-(near|far)( |\$)" || true
}
