// The daemon as its users meet it: the release binary, real interfaces, front-ends and drivers that
// are not ours.
//
// One test at a time: they share the machine's CPUs, and several compare counts at a rate without
// loss. They need root, the packages of Tests/System/lab/packages.sh, and a release build.
import Glibc
import Testing

@Suite(
  .serialized,
  .enabled(if: unsafe getenv("SYSTEM_TESTS") != nil, "set SYSTEM_TESTS=1 to run the system tests"),
  .enabled(if: geteuid() == 0, "network namespaces and AF_XDP sockets need root"))
enum SystemTests {}
