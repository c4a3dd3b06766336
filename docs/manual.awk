# The manual page, in roff, from what `vhost-user-xdp --help` prints, and then its subcommands:
#   { vhost-user-xdp --help; vhost-user-xdp grant --help; } | awk -v version=1.0 -f docs/manual.awk
function plain(text) {
  gsub(/\\/, "\\e", text)
  gsub(/-/, "\\-", text)
  sub(/^['.]/, "\\\\\\&&", text)
  return text
}
function trimmed(text) {
  sub(/^ +/, "", text)
  return text
}

BEGIN {
  print ".TH VHOST\\-USER\\-XDP 8 \"\" \"vhost-user-xdp " version "\""
  print ".SH NAME\nvhost\\-user\\-xdp \\- a network device for virtual machines, by AF_XDP"
}

/^OVERVIEW: / {
  isFurther = overview != ""
  overview = substr($0, 11)
  description = ""
  section = "overview"
  next
}
/^USAGE: / {
  usage = substr($0, 8)
  # A subcommand has a section of its own, named by the word behind the program.
  split(usage, words, " ")
  if (isFurther) print ".SH " toupper(words[2]) "\n.B " plain(usage) "\n.PP\n" plain(overview)
  else print ".SH SYNOPSIS\n.B " plain(usage) "\n.SH DESCRIPTION\n" plain(overview)
  print substr(description, 2)
  section = "usage"
  next
}
/^OPTIONS:/ { print isFurther ? ".PP" : ".SH OPTIONS"; section = "options"; next }

# Commands stand indented: as they are.
section == "overview" {
  isCommand = /^  /
  if (isCommand && !wasCommand) description = description "\n.nf"
  if (!isCommand && wasCommand) description = description "\n.fi"
  wasCommand = isCommand
  if ($0 == "") description = description "\n.PP"
  else description = description "\n" plain($0)
  next
}

section == "options" && /^  -/ {
  rest = substr($0, 3)
  # Two blanks end the option; a long one has its explanation on the next line.
  at = match(rest, /  +/)
  print ".TP\n.B " plain(at ? substr(rest, 1, at - 1) : rest)
  if (at) print plain(trimmed(substr(rest, at)))
  next
}
section == "options" && /^ / { print plain(trimmed($0)) }

END {
  print ".SH SEE ALSO\n.BR qemu (1),\n.BR ip\\-link (8)"
}
