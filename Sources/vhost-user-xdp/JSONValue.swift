// JSON to print: members in the order in which they are given, indented by two spaces.  RFC 8259.

enum JSONValue {
  case object([(String, JSONValue)])
  case array([JSONValue])
  case text(String)
  case number(Int)
  case bool(Bool)

  /// The document, without a line feed at its end.
  func rendered(indentation: String = "") -> String {
    let inner = indentation + "  "
    func block(_ open: String, _ items: [String], _ close: String) -> String {
      if items.isEmpty { return open + close }
      return open + "\n" + items.map { inner + $0 }.joined(separator: ",\n") + "\n"
        + indentation + close
    }
    switch self {
    case .object(let members):
      return block(
        "{",
        members.map { JSONValue.quoted($0.0) + ": " + $0.1.rendered(indentation: inner) }, "}")
    case .array(let items):
      return block("[", items.map { $0.rendered(indentation: inner) }, "]")
    case .text(let text): return JSONValue.quoted(text)
    case .number(let number): return String(number)
    case .bool(let value): return String(value)
    }
  }

  private static func quoted(_ text: String) -> String {
    var quoted = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": quoted += "\\" + String(scalar)
      case "\u{00}"..."\u{1f}":
        let digits = String(scalar.value, radix: 16)
        quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: quoted.unicodeScalars.append(scalar)
      }
    }
    return quoted + "\""
  }
}
