// What bench/c_stack_vs_gdb.py samples beside numpy: C++ with exceptions, virtual calls, callbacks, recursion, alloca.
#include <algorithm>
#include <alloca.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

struct shape {
    virtual ~shape() = default;
    virtual double area(int depth) const = 0;
};

struct leaf : shape {
    double x;
    explicit leaf(double v) : x(v) {}
    double area(int depth) const override
    {
        if (depth % 7 == 0)
            throw std::runtime_error("too deep: " + std::to_string(depth));
        return x * x;
    }
};

struct node : shape {
    std::vector<std::unique_ptr<shape>> children;
    double area(int depth) const override
    {
        double sum = 0;
        for (const auto &c : children) {
            try {
                sum += c->area(depth + 1);
            } catch (const std::runtime_error &e) {
                sum += static_cast<double>(std::strlen(e.what()));
            }
        }
        return sum;
    }
};

static std::unique_ptr<shape> grow(int depth)
{
    if (depth == 0)
        return std::make_unique<leaf>(3.5);
    auto n = std::make_unique<node>();
    for (int i = 0; i < 3; i++)
        n->children.push_back(grow(depth - 1));
    return n;
}

static int compare(const void *a, const void *b)
{
    const auto *x = *static_cast<const std::string *const *>(a), *y = *static_cast<const std::string *const *>(b);
    return x->compare(*y);
}

static int with_alloca(int n)
{
    auto *p = static_cast<char *>(alloca(static_cast<size_t>(n) + 16));
    std::memset(p, n & 0xff, static_cast<size_t>(n));
    std::snprintf(p, 16, "%d", n);
    return n > 1 ? with_alloca(n - 1) + p[0] : p[0];
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? std::atoi(argv[1]) : 1000;
    double total = 0;
    for (int i = 0; i < rounds; i++) {
        total += grow(6 + i % 2)->area(0);
        std::vector<std::string> words;
        for (int k = 0; k < 300; k++)
            words.push_back("w" + std::to_string((k * 7919 + i) % 1000));
        std::vector<const std::string *> order;
        for (const auto &w : words)
            order.push_back(&w);
        std::qsort(order.data(), order.size(), sizeof(order[0]), compare);
        std::sort(words.begin(), words.end(), std::greater<>());
        std::map<std::string, std::function<int(int)>> table;
        for (const auto &w : words)
            table[w] = [&](int n) { return with_alloca(n) + static_cast<int>(w.size()); };
        for (auto &entry : table)
            total += entry.second(20);
        std::regex pattern("w([0-9]+)5");
        for (size_t k = 0; k < 20; k++)
            total += std::regex_match(words[k], pattern);
    }
    std::printf("%g\n", total);
}
