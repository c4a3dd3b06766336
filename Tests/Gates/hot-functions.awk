# Inputs, separated by tabs: the list of roots, "symbol, name" and "caller, callee".

BEGIN {
  # Prefixes of runtime functions, and what allocates.
  forbidden = "^(swift_(retain|release|bridgeObject|unknownObject|weak|unowned|beginAccess|" \
    "endAccess|alloc|slowAlloc|dealloc|slowDealloc|initStack|once|dynamicCast|get|is|" \
    "checkMetadata|conformsTo|instantiate|projectBox|project_boxed|task|willThrow|copy|assign|" \
    "arrayInit|arrayAssign|deletedMethod)|_swift_|__swift_|malloc|calloc|realloc|posix_memalign|" \
    "aligned_alloc|free|_Zn|pthread_mutex)"
  # Of the standard library only what ends the process, and errno.
  harmless = "(errno|assertionFailure|fatalError|preconditionFailure)"
}

FNR == 1 { input++ }

input == 1 {
  if ($0 ~ /^#/ || NF == 0) next
  if ($1 == "root") roots[++rootCount] = $2
  else if ($1 == "cold") cold[$2] = 1
  else if ($1 == "ceiling") ceiling[$3 "\t" $4] = $2
  else { print "hot-functions: line " FNR ": unknown word \"" $1 "\""; failed = 1 }
  next
}

input == 2 { name[$1] = $2; next }

$2 == "" { defined[$1] = 1; next }
{ calls[$1] = calls[$1] SUBSEP $2 }

END {
  for (r = 1; r <= rootCount; r++) {
    found = 0
    for (symbol in defined)
      if (matches(name[symbol], roots[r])) { found++; enter(symbol, "") }
    if (!found) { print "no function \"" roots[r] "\": renamed or inlined? correct the list"; failed = 1 }
  }
  for (q = 1; q <= queued; q++) visit(queue[q])
  for (key in count) {
    split(key, part, "\t")
    if (count[key] > ceiling[key]) {
      failed = 1
      printf "%s calls %s, %d times%s%s\n", part[1], part[2], count[key], \
        (ceiling[key] ? " (allowed " ceiling[key] ")" : ""), via[part[1]]
    } else if (count[key] < ceiling[key]) lower(key, count[key])
  }
  for (key in ceiling) if (!(key in count)) lower(key, 0)
  for (c in cold) if (!(c in coldSeen)) {
    print "cold function \"" c "\" is never reached: take it off the list"
    failed = 1
  }
  if (!failed) printf "%d functions of the data path, none calls into the runtime%s\n", queued, \
    (length(ceiling) ? " beyond the ceilings" : "")
  exit failed
}

function matches(text, wanted) { return wanted ~ /\*$/ ? index(text, substr(wanted, 1, length(wanted) - 1)) == 1 : text == wanted }

function enter(symbol, path) {
  if (symbol in entered) return
  entered[symbol] = 1
  queue[++queued] = symbol
  via[name[symbol]] = path
}

function visit(symbol,    list, n, i, callee, label) {
  n = split(substr(calls[symbol], 2), list, SUBSEP)
  for (i = 1; i <= n; i++) {
    callee = list[i]
    label = name[callee]
    if (isCold(label)) continue
    if (callee in defined) enter(callee, via[name[symbol]] "\n    called by " name[symbol])
    else if (callee ~ forbidden || (callee ~ /^\$s/ && label !~ harmless))
      count[name[symbol] "\t" label]++
  }
}

function isCold(label,    c) {
  for (c in cold) if (matches(label, c)) { coldSeen[c] = 1; return 1 }
  return 0
}

function lower(key, value,    part) {
  split(key, part, "\t")
  print "note: " part[1] " calls " part[2] " " value " times now: lower its ceiling " ceiling[key]
}
