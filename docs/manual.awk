# The manual page, in roff, from what `vhost-user-xdp --help` prints:
#   vhost-user-xdp --help | awk -f docs/manual.awk >vhost-user-xdp.8
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

/^OVERVIEW: / { overview = substr($0, 11); section = "overview"; next }
/^USAGE: / {
  print ".SH SYNOPSIS\n.B " plain(substr($0, 8))
  print ".SH DESCRIPTION\n" plain(overview)
  print substr(description, 2)
  section = "usage"
  next
}
/^OPTIONS:/ { print ".SH OPTIONS"; section = "options"; next }

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
