// The compiled BPF programs, as ELF objects; the build adds one member per bpf/*.bpf.c.

/// ELF objects that libbpf loads from memory.
enum BPFObject {}
