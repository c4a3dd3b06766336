#include "runtime_counters.h"
