// What management layers read: files for libvirt and QEMU, and the program's own description.
import Testing

extension SystemTests {
  @Suite("management layers")
  struct Management {
    let wire: Wire
    init() throws { wire = try Wire() }

    @Test("the libvirt domain is valid by libvirt's own schema, and a misspelt one is not")
    func libvirt() throws {
      let domain = Wire.root + "/qemu-configs/libvirt-domain.xml"
      try wire.shell("virt-xml-validate \(domain) domain")
      for mistake in ["s/rx_queue_size=/rx_queues=/", "s/mode='client'/mode='both'/"] {
        let script = """
          copy=$(mktemp --suffix=.xml)
          sed "\(mistake)" \(domain) >$copy
          ! cmp -s \(domain) $copy && ! virt-xml-validate $copy domain && rm $copy
          """
        try wire.shell(script)
      }
    }

    @Test("the description for QEMU's folder names the type that the program prints")
    func description() throws {
      let query = """
        import json, subprocess, sys
        description = json.load(open(sys.argv[1]))
        capabilities = json.loads(subprocess.check_output([sys.argv[2], '--print-capabilities']))
        assert capabilities == {'type': 'net'} and description['type'] == 'net', capabilities
        assert description['binary'] == '/usr/bin/vhost-user-xdp' and description['description']
        """
      let file = Wire.root + "/systemd/50-vhost-user-xdp.json"
      try wire.shell("python3 -c \"\(query)\" \(file) \(Daemon.binary)")
    }
  }
}
