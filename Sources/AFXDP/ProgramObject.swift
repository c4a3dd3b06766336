// The embedded object, loaded into the kernel by libbpf.
//
// libbpf prints to stderr what it has to say; here it is collected, and becomes part of the error.
import CBPF
import Glibc
import Linux
import Synchronization

/// BPF_F_XDP_HAS_FRAGS, which SEC("xdp.frags") stands for.
private let fragmentsFlag: UInt32 = 1 << 5

/// The maps of the loaded program.
struct ProgramMaps: ~Copyable, Sendable {
  /// NIC queue (UInt32) -> AF_XDP socket descriptor.
  let sockets: OwnedDescriptor
  /// Ethernet address (6 bytes) -> 1.
  let addresses: OwnedDescriptor
}

/// The program in the kernel, and its maps.
struct LoadedProgram: ~Copyable, Sendable {
  let program: OwnedDescriptor
  let maps: ProgramMaps
  let takesFragments: Bool
}

/// The loaded program; it may go once the program is attached and the maps are duplicated.
@safe
struct ProgramObject: ~Copyable {
  private let object: OpaquePointer
  /// The program's descriptor; valid while this lives.
  private let program: CInt
  /// It was loaded as one that takes packets of several buffers.
  private let takesFragments: Bool

  /// As a program that takes packets of several buffers, if the kernel knows such (since 5.18).
  init(steering: Steering, queues: Int, interface: XDPInterface) throws(XDPProgramError) {
    do {
      try self.init(steering, queues, interface, takesFragments: true)
    } catch {
      try self.init(steering, queues, interface, takesFragments: false)
    }
  }

  private init(
    _ steering: Steering, _ queues: Int, _ interface: XDPInterface, takesFragments: Bool
  ) throws(XDPProgramError) {
    self.takesFragments = takesFragments
    var dedicated: UInt32 = steering == .dedicated ? 1 : 0
    let result: Result<(OpaquePointer, CInt), XDPProgramError> =
      unsafe LibraryLog.collect { log in
        var options = unsafe bpf_object_open_opts()
        // To the end of the last field: libbpf refuses a struct whose padding is not zero.
        unsafe options.sz =
          MemoryLayout<bpf_object_open_opts>.offset(of: \.kernel_log_level)! + 4
        let opened = unsafe "steer".withCString { name in
          unsafe options.object_name = unsafe name
          return unsafe BPFObject.steer.withUnsafeBytes { bytes in
            unsafe bpf_object__open_mem(bytes.baseAddress, bytes.count, &options)
          }
        }
        guard let opened = unsafe opened else {
          return unsafe .failure(
            XDPProgramError("libbpf cannot read the XDP program: \(Errno.current)\(log())"))
        }
        let sockets = unsafe bpf_object__find_map_by_name(opened, "sockets")
        let constants = unsafe bpf_object__find_map_by_name(opened, ".rodata")
        var error: CInt = -ENOENT
        if let sockets = unsafe sockets, let constants = unsafe constants {
          error = unsafe bpf_map__set_max_entries(sockets, UInt32(max(queues, 1)))
          if error == 0 {
            error = unsafe bpf_map__set_initial_value(constants, &dedicated, 4)
          }
        }
        let program = unsafe bpf_object__find_program_by_name(opened, AttachedProgram.ownName)
        if error == 0, takesFragments, let program = unsafe program {
          error = unsafe bpf_program__set_flags(program, fragmentsFlag)
        }
        if error == 0 { error = unsafe bpf_object__load(opened) }
        guard error == 0, let program = unsafe program else {
          let remedy =
            error == -EPERM
            ? ": run as root or give \(Capability.missing(of: [.bpf, .networkAdministration]))" : ""
          unsafe bpf_object__close(opened)
          return unsafe .failure(
            XDPProgramError(
              "cannot load the XDP program for \(interface.name): \(Errno(-error))\(remedy)\(log())"
            ))
        }
        return unsafe .success((opened, bpf_program__fd(program)))
      }
    unsafe (object, program) = try unsafe result.get()
  }

  deinit { unsafe bpf_object__close(object) }

  /// Descriptors that outlive the object.
  func loaded() throws(XDPProgramError) -> LoadedProgram {
    do {
      return LoadedProgram(
        program: try ProgramObject.duplicate(program),
        maps: ProgramMaps(sockets: try map("sockets"), addresses: try map("guest_macs")),
        takesFragments: takesFragments)
    } catch {
      throw XDPProgramError("cannot keep the XDP program and its maps open: \(error)")
    }
  }

  private func map(_ name: String) throws(Errno) -> OwnedDescriptor {
    let raw = unsafe bpf_object__find_map_fd_by_name(object, name)
    guard raw >= 0 else { throw Errno(-raw) }
    return try ProgramObject.duplicate(raw)
  }

  private static func duplicate(_ raw: CInt) throws(Errno) -> OwnedDescriptor {
    OwnedDescriptor(adopting: try checkedCall { fcntl(raw, F_DUPFD_CLOEXEC, 0) })
  }
}

/// What libbpf said; its print function is global to the process.
private enum LibraryLog {
  private static let turn = Mutex<Void>(())
  private static let said = Mutex<String>("")

  /// Runs `body` while nobody else uses libbpf's log.  `log` gives what was said so far, ready to
  /// be appended to an error.
  static func collect<Value>(_ body: (_ log: () -> String) -> Value) -> Value {
    turn.withLock { _ in
      said.withLock { $0 = "" }
      let former = unsafe libbpf_set_print { level, format, arguments in
        // Optional on some architectures only, as va_list is a pointer or a struct.
        let arguments: CVaListPointer? = unsafe arguments
        guard level != LIBBPF_DEBUG, let format = unsafe format,
          let arguments = unsafe arguments
        else { return 0 }
        var line = [CChar](repeating: 0, count: 1024)
        let length = unsafe vsnprintf(&line, line.count, format, arguments)
        let text = line.prefix(max(0, min(Int(length), line.count - 1)))
        LibraryLog.said.withLock {
          $0 += String(decoding: text.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        }
        return length
      }
      defer { _ = unsafe libbpf_set_print(former) }
      return body {
        let lines = said.withLock { $0 }.split(separator: "\n").suffix(8)
        return lines.isEmpty ? "" : " (" + lines.joined(separator: "; ") + ")"
      }
    }
  }
}
