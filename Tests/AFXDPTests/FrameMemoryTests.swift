import Testing

@testable import AFXDP

@Suite struct FrameMemoryTests {
  @Test("every frame of a budget comes out once, and the last one in is the first one out")
  func stack() {
    var stack = FrameStack(chunks: 16..<48)
    #expect((0..<32).map { _ in stack.pop() } == Array(16..<48))
    #expect(stack.count == 0)
    for chunk in UInt32(16)..<48 { stack.push(chunk) }
    #expect(stack.pop() == 47)
    #expect(stack.count == 31)
  }

  @Test("chunks are 2048 bytes as long as MTU, VLAN header and headroom fit")
  func chunkSize() {
    #expect(FrameGeometry.chunkSize(forMTU: 1500) == 2048)
    #expect(FrameGeometry.chunkSize(forMTU: 1774) == 2048)
    #expect(FrameGeometry.chunkSize(forMTU: 1775) == 4096)
    #expect(FrameGeometry.largestMTU == 3822)
  }

  @Test("a packet takes as many chunks as its MTU with a VLAN header needs")
  func framesPerPacket() {
    let geometry = FrameGeometry(chunkSize: 4096, receiveFrames: 1, transmitFrames: 1)
    #expect(geometry.framesPerPacket(forMTU: FrameGeometry.largestMTU) == 1)
    #expect(geometry.framesPerPacket(forMTU: FrameGeometry.largestMTU + 1) == 2)
    #expect(geometry.framesPerPacket(forMTU: 9000) == 3)
    let most = FrameGeometry.largestMultiBufferMTU
    #expect(geometry.framesPerPacket(forMTU: most) == FrameGeometry.mostFramesPerPacket)
    #expect(geometry.framesPerPacket(forMTU: most + 1) == FrameGeometry.mostFramesPerPacket + 1)
  }

  @Test("the two budgets share no byte, and addresses beyond the range name nothing")
  func layout() throws {
    let memory = try FrameMemory(
      FrameGeometry(chunkSize: 2048, receiveFrames: 3, transmitFrames: 2))
    #expect(memory.geometry.receiveChunks == 0..<3 && memory.geometry.transmitChunks == 3..<5)
    let layout = memory.layout
    for chunk in UInt32(0)..<5 {
      let first = layout.address(of: chunk)
      #expect(layout.chunk(at: first) == chunk)
      #expect(layout.chunk(at: first + 2047) == chunk)
      #expect(unsafe layout.pointer(at: first) == layout.pointer(to: chunk))
      #expect(unsafe layout.address(of: layout.pointer(to: chunk) + 256) == first + 256)
      unsafe layout.pointer(to: chunk).storeBytes(of: 1, toByteOffset: 2047, as: UInt8.self)
    }
    for address: UInt64 in [5 * 2048, 5 * 2048 + 1, 1 << 48, .max] {
      #expect(layout.chunk(at: address) == nil)
      #expect(unsafe layout.pointer(at: address) == nil)
    }
  }

  @Test(
    "memory for a NUMA node that does not exist is allocated all the same", arguments: [-1, 63])
  func node(node: Int) throws {
    let memory = try FrameMemory(
      FrameGeometry(chunkSize: 4096, receiveFrames: 8, transmitFrames: 8), node: node)
    #expect(memory.node == nil)
  }
}
