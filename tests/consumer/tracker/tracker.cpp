// The same in C++17: classes around the API.  Loaded with ctypes.
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "faultproof.h"

namespace {

struct Frame {
    std::string file, name;
    int line;
};

std::optional<std::vector<Frame>> own_stack()
{
    static std::array<PyUnstable_FrameInfo, 64> frames;
    const int n =
        PyUnstable_CollectCallStack(faultproof_current_tstate(), frames.data(), static_cast<int>(frames.size()));
    if (n < 0)
        return std::nullopt;
    std::vector<Frame> out;
    for (int i = 0; i < n; i++)
        out.push_back({frames[i].filename, frames[i].name, frames[i].lineno});
    return out;
}

} // namespace

extern "C" __attribute__((visibility("default"))) int cpp_frames_named(const char *name)
{
    if (faultproof_init() != 0)
        return -1;
    int n = 0;
    if (const auto stack = own_stack())
        for (const auto &frame : *stack)
            n += frame.name == std::string_view(name);
    return n;
}

extern "C" __attribute__((visibility("default"))) int cpp_threads()
{
    int n = 0;
    const auto visit = [](const faultproof_thread *, void *context) {
        ++*static_cast<int *>(context);
        return 0;
    };
    return faultproof_each_thread(visit, &n) == n ? n : -1;
}
