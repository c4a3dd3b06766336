# From `objdump -dr` of object files or programs to lines "caller TAB callee", and "caller TAB" for
# each function, so that those which call nothing are there too.

/^[0-9a-f]+ <.*>:$/ {
  caller = $2
  gsub(/[<>:]/, "", caller)
  print caller "\t"
  next
}

! / R_[A-Z]/ { isCall = /\t(call|jmp|bl|b) / }

# In an object file the callee is in the relocation, and the operand means nothing yet. A load
# of an address has a relocation, too.
/ R_[A-Z]/ && !isCall { next }
/R_X86_64_(PLT32|GOTPCREL|GOTPCRELX|REX_GOTPCRELX)|R_AARCH64_(CALL26|JUMP26)/ {
  callee = $NF
  sub(/[-+]0x[0-9a-f]+$/, "", callee)
  if (callee !~ /^\./) print caller "\t" callee
  next
}

# In a program the operand is the callee; "name+0x10" is a jump inside the function.
/\t(call|jmp|bl|b)[a-z]* .*<[^+>]*>$/ {
  callee = $NF
  gsub(/[<>]/, "", callee)
  sub(/@.*/, "", callee)
  if (callee != caller) print caller "\t" callee
}
