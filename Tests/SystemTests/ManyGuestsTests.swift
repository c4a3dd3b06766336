import Glibc
import Testing

extension SystemTests {
  @Suite("more than one guest", .enabled(if: Guest.isFetched, Guest.missing))
  struct ManyGuests {
    @Test("two guests, each with a daemon and an interface, do not feel one another")
    func two() throws {
      let wires = [try Wire(), try Wire()]
      let daemons = [try wires[0].startDaemon(), try wires[1].startDaemon()]
      var guests = [try Guest(on: wires[0]), try Guest(on: wires[1])]
      for guest in guests { try guest.waitUntilUp() }
      let connections = daemons[1].connections
      let streams = try guests[1].startStreams(seconds: 8)
      #expect(try guests[0].iperf(toGuest: false) > 1e6)
      #expect(try guests[0].ping(count: 20) == 20)

      // One dies under traffic and is followed by one with another driver.
      try wires[0].shell("guest_kill")
      #expect(try guests[1].ping(count: 20) == 20)
      guests[0] = try Guest(on: wires[0], device: ",disable-modern=on,mrg_rxbuf=off", ring: 256)
      try guests[0].waitUntilUp()
      #expect(try guests[0].ping(count: 20) == 20)
      #expect(Set(try guests[0].copyFile(megabytes: 4)).count == 1)

      try streams.expectGood()
      #expect(try guests[1].ping(count: 20) == 20)
      #expect(daemons[1].connections == connections)
      #expect(daemons[1].complaints == [])
    }
  }
}
