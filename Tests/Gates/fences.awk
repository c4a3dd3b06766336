# LLVM IR of one function: is there a full fence on every way from a store to shared memory to a load
# of it? Prints how many fences the function has.
#
#   -v function_name=SYMBOL -v begins_stored=1   it is called after a store

BEGIN { header = "@\"" function_name "\"(" }

index($0, "define ") == 1 && index($0, header) { inside = 1; block = "entry"; blocks[count = 1] = block; next }
!inside { next }
/^}/ { exit }

/^[^ ;].*:/ {
  block = $1
  sub(/:.*/, "", block)
  gsub(/"/, "", block)
  if (block != "entry") blocks[++count] = block
  next
}

{
  rest = $0
  while (match(rest, /label %("[^"]*"|[-a-zA-Z$._0-9]+)/)) {
    target = substr(rest, RSTART + 7, RLENGTH - 7)
    gsub(/"/, "", target)
    successors[block] = successors[block] SUBSEP target
    rest = substr(rest, RSTART + RLENGTH)
  }
}

/^ *fence / {
  if (!/seq_cst/ || /syncscope/) next
  fences++
  step[block] = step[block] "F"
}
/ load atomic / { looks++; step[block] = step[block] "L" }
/ store atomic |^ *store atomic | atomicrmw | cmpxchg / { stores++; step[block] = step[block] "S" }
/ call / && !/@llvm\./ { step[block] = step[block] "S" }

END {
  if (!inside) complain("is not there: renamed or inlined? correct the list")
  if (!looks) complain("looks at nothing")
  if (!stores && !begins_stored) complain("stores nothing")
  stored["entry"] = begins_stored + 0
  visit["entry"] = 1
  do {
    changed = 0
    for (b = 1; b <= count; b++) {
      block = blocks[b]
      if (!visit[block]) continue
      state = stored[block] + 0
      for (i = 1; i <= length(step[block]); i++) {
        kind = substr(step[block], i, 1)
        if (kind == "F") state = 0
        else if (kind == "S") state = 1
        else if (state && !(block in bad)) { bad[block] = 1; complain("loads shared memory after a store, without a fence between, in block " block) }
      }
      n = split(substr(successors[block], 2), list, SUBSEP)
      for (i = 1; i <= n; i++) {
        if (!visit[list[i]] || stored[list[i]] + 0 < state) {
          visit[list[i]] = 1
          if (state) stored[list[i]] = 1
          changed = 1
        }
      }
    }
  } while (changed)
  print fences + 0
  exit failed
}

function complain(text) {
  print "fences: IR: " function_name " " text > "/dev/stderr"
  failed = 1
}
