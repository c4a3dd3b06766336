// What became of those who connected.

struct FrontEndCounters {
  var served = 0
  /// Of those, what ended otherwise than by their own choice.
  var disconnected = 0
  /// While another one was served, or by --allow-uid.
  var refused = 0

  var summary: String {
    "front-ends: served \(served), disconnected \(disconnected), refused \(refused)"
  }
}
