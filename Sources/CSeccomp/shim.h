#pragma once
#include <linux/prctl.h>
#include <seccomp.h>
#include <sys/mman.h>
