// What a session with an IOMMU starts from: no channel, new memory, new features.
import GuestDriver
import GuestMemory
import Testing
import VirtioNet
import Virtqueue

private let bias = IommuGuest.bias
private let header = [UInt8](repeating: 0, count: 12)

extension IommuTests {
  @Test("without a channel and without translations, addresses are what they are without an IOMMU")
  func noChannel() throws {
    let guest = try IommuGuest(channel: false)
    try guest.start(1)
    let place = page(guest, header + frame(60))
    guest.transmit([(place.value, 72)])
    #expect(eventually { guest.takeTransmitted() == [frame(60)] })
  }

  @Test("a new memory table moves the translations with the rings")
  func newMemory() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let place = page(guest, header + frame(60))
    try guest.iommu!.push(place.value + bias)
    for _ in 0..<5 {
      try guest.frontEnd.setMemory(guest.ram)
      guest.transmit([(place.value + bias, 72)])
      #expect(eventually { guest.takeTransmitted() == [frame(60)] })
    }
    let misses = guest.iommu!.misses.count
    try guest.settle()
    #expect(guest.iommu!.misses.count == misses)
  }

  @Test("SET_FEATURES forgets every translation: the front-end tells no changes meanwhile")
  func renegotiation() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let misses = guest.iommu!.misses.count
    try guest.frontEnd.setFeatures(guest.frontEnd.features)
    #expect(
      try eventually {
        try guest.iommu!.serve()
        return guest.iommu!.misses.count > misses
      })
    try guest.settle()
    let place = page(guest, header + frame(60))
    guest.transmit([(place.value + bias, 72)])
    #expect(try guest.sends(frame(60)))
  }
}
