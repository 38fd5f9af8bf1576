// program.h: an input of a stateful fuzz target is a program, and mutations keep it one.
//
//   | kind 1 | count 1 | count octets of operands |   | kind | count | operands |   ...
//
// Any octets are a program (what is cut off at the end is read as far as it goes; operands that are missing are zero),
// so every target takes every input. The mutator works on operations instead of octets: it adds, removes, doubles,
// swaps and moves them, splices two programs at their operations, and leaves the octets of one operand list to
// libFuzzer. How a packet that carries these operands gets valid macs and tags is each target's business: it holds the
// keys.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace wireplane::fuzz {

struct Operation {
  std::uint8_t kind = 0;
  std::vector<std::uint8_t> operands;
};
using Program = std::vector<Operation>;

// The operands of one operation, read from the front; behind the end there are zeros.
class Operands {
 public:
  explicit Operands(std::span<const std::uint8_t> octets) : octets_{octets} {}
  std::uint8_t u8() {
    if (octets_.empty()) return 0;
    const std::uint8_t first = octets_.front();
    octets_ = octets_.subspan(1);
    return first;
  }
  std::uint16_t u16() {
    const unsigned low = u8();
    return static_cast<std::uint16_t>(low | unsigned{u8()} << 8);
  }
  std::uint32_t u32() {
    const std::uint32_t low = u16();
    return low | std::uint32_t{u16()} << 16;
  }
  std::uint64_t u64() {
    const std::uint64_t low = u32();
    return low | std::uint64_t{u32()} << 32;
  }
  unsigned below(unsigned limit) { return u8() % limit; }
  bool flag() { return (u8() & 1) != 0; }
  [[nodiscard]] std::span<const std::uint8_t> rest() const { return octets_; }
  [[nodiscard]] bool empty() const { return octets_.empty(); }

 private:
  std::span<const std::uint8_t> octets_;
};

inline Program parse(std::span<const std::uint8_t> octets, std::size_t at_most = 400) {
  Program program;
  while (octets.size() >= 2 && program.size() < at_most) {
    const std::size_t count = std::min<std::size_t>(octets[1], octets.size() - 2);
    const auto operands = octets.subspan(2, count);
    program.push_back({octets[0], {operands.begin(), operands.end()}});
    octets = octets.subspan(2 + count);
  }
  return program;
}

// As many of its operations as have room.
inline std::size_t print(const Program& program, std::uint8_t* out, std::size_t room) {
  std::size_t at = 0;
  for (const Operation& op : program) {
    const std::size_t count = std::min<std::size_t>(op.operands.size(), 255);
    if (room - at < 2 + count) break;
    out[at++] = op.kind;
    out[at++] = static_cast<std::uint8_t>(count);
    std::copy_n(op.operands.begin(), count, out + at);
    at += count;
  }
  return at;
}

// Operands a kind of operation usually has; a target's kinds are 0 .. size - 1.
using Grammar = std::span<const std::uint8_t>;

class Mutator {
 public:
  Mutator(Grammar grammar, unsigned seed) : grammar_{grammar}, dice_{seed} {}

  std::size_t mutate(std::uint8_t* data, std::size_t size, std::size_t room) {
    Program program = parse({data, size});
    for (std::size_t changes = 1 + below(4); changes != 0; --changes) change(program);
    return print(program, data, room);
  }
  std::size_t cross(std::span<const std::uint8_t> a, std::span<const std::uint8_t> b, std::uint8_t* out,
                    std::size_t room) {
    Program left = parse(a);
    const Program right = parse(b);
    if (right.empty()) return print(left, out, room);
    const std::size_t cut = below(left.size() + 1), from = below(right.size()), to = from + below(right.size() - from);
    if (below(2) == 0) left.resize(cut);  // the one's beginning and the other's middle; or the middle put into the one
    left.insert(left.begin() + static_cast<std::ptrdiff_t>(cut), right.begin() + static_cast<std::ptrdiff_t>(from),
                right.begin() + static_cast<std::ptrdiff_t>(to + 1));
    return print(left, out, room);
  }

 private:
  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : dice_() % limit; }
  std::uint8_t octet() {
    static constexpr std::uint8_t kTelling[] = {0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 254, 255};
    return below(3) == 0 ? kTelling[below(std::size(kTelling))] : static_cast<std::uint8_t>(dice_());
  }
  Operation fresh() {
    Operation op{static_cast<std::uint8_t>(below(grammar_.size())), {}};
    op.operands.resize(grammar_[op.kind]);
    for (std::uint8_t& operand : op.operands) operand = octet();
    return op;
  }
  void change(Program& program) {
    const auto place = [&](std::size_t i) { return program.begin() + static_cast<std::ptrdiff_t>(i); };
    const std::size_t how = program.empty() ? 0 : below(10);
    switch (how) {
      case 0:
      case 1:
        program.insert(place(below(program.size() + 1)), fresh());
        return;
      case 2:
        program.erase(place(below(program.size())));
        return;
      case 3: {  // again, here or elsewhere
        const Operation op = program[below(program.size())];
        program.insert(place(below(program.size() + 1)), op);
        return;
      }
      case 4:
        std::swap(program[below(program.size())], program[below(program.size())]);
        return;
      case 5: {  // a stretch goes, or comes twice
        const std::size_t from = below(program.size()),
                          to = from + below(std::min<std::size_t>(8, program.size() - from));
        const Program stretch(place(from), place(to) + 1);
        if (below(2) == 0)
          program.erase(place(from), place(to) + 1);
        else
          program.insert(place(to), stretch.begin(), stretch.end());
        return;
      }
      case 6:
        program[below(program.size())].kind = static_cast<std::uint8_t>(below(grammar_.size()));
        return;
      case 7: {  // one operand
        Operation& op = program[below(program.size())];
        if (op.operands.empty()) op.operands.resize(1);
        op.operands[below(op.operands.size())] = octet();
        return;
      }
      default: {  // operands as octets: libFuzzer knows what they were compared with
        Operation& op = program[below(program.size())];
        std::size_t count = op.operands.size();
        op.operands.resize(255);
        count = LLVMFuzzerMutate(op.operands.data(), count, op.operands.size());
        op.operands.resize(count);
        return;
      }
    }
  }

  Grammar grammar_;
  std::minstd_rand dice_;
};

// A target's entry: a new world, in which the input's operations are played; at most so many.
template <class World, class Kind>
int play_in_new(std::span<const std::uint8_t> input, std::size_t at_most, Kind kinds) {
  World world;
  for (const Operation& op : parse(input, at_most))
    world.play(static_cast<Kind>(op.kind % kinds), Operands{op.operands});
  return 0;
}

}  // namespace wireplane::fuzz

// In a target, once, behind the grammar.
#define WIREPLANE_FUZZ_PROGRAMS(grammar)                                                                             \
  extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t room,             \
                                                 unsigned seed) {                                                    \
    return wireplane::fuzz::Mutator{grammar, seed}.mutate(data, size, room);                                         \
  }                                                                                                                  \
  extern "C" std::size_t LLVMFuzzerCustomCrossOver(const std::uint8_t* a, std::size_t a_size, const std::uint8_t* b, \
                                                   std::size_t b_size, std::uint8_t* out, std::size_t room,          \
                                                   unsigned seed) {                                                  \
    return wireplane::fuzz::Mutator{grammar, seed}.cross({a, a_size}, {b, b_size}, out, room);                       \
  }
