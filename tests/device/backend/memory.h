// The cards of the pretended backend: their memory, its limits and failures, what is counted, and pinned host memory.
#pragma once
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

namespace pretended {

constexpr int CARDS = 4;
constexpr int64_t BLOCK = 512;  // bytes that the caching allocator of CUDA rounds up to

// One card. `reserved` is what the caching allocator would hold: it shrinks when the cache is emptied only.
struct Card {
  int64_t held = 0, peak = 0, reserved = 0, total = int64_t(80) << 30, neighbour = 0, touches = 0;
};

inline Card cards[CARDS];
inline std::recursive_mutex lock;
inline std::map<std::string, int64_t> counts;  // see `count`
inline int64_t allocations = 0;
inline int64_t fail_at = 0, fail_times = 0;  // the allocation that fails first (from 1; 0 is none), and how many do
inline int64_t pinned_held = 0, pinned_limit = 0;
inline thread_local c10::DeviceIndex current = 0;

inline void count(const std::string& what, int64_t by = 1) {
  std::lock_guard<std::recursive_mutex> held(lock);
  counts[what] += by;
}

// Something makes the host wait for the card.
inline void waits(const std::string& why) { count("wait: " + why); }

inline void touch(int card) {
  std::lock_guard<std::recursive_mutex> held(lock);
  cards[card].touches += 1;
}

struct OnCard {
  c10::DeviceIndex before;
  explicit OnCard(c10::Device device) : before(current) {
    TORCH_CHECK(device.index() >= 0 && device.index() < CARDS, "CUDA error: invalid device ordinal");
    current = device.index();
  }
  ~OnCard() { current = before; }
};

inline c10::Device with_index(std::optional<c10::Device> asked) {
  c10::Device device = asked.value_or(c10::Device(c10::kCUDA));
  return device.has_index() ? device : c10::Device(c10::kCUDA, current);
}

struct Block {
  void* data;
  int64_t size;
  int card;
};

inline void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  {
    std::lock_guard<std::recursive_mutex> held(lock);
    cards[block->card].held -= block->size;
  }
  std::free(block->data);
  delete block;
}

// Counts an allocation, and raises if it is to fail or does not fit.
inline void account(int index, int64_t size) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  Card& card = cards[index];
  allocations += 1;
  const int64_t room = card.total - card.neighbour - card.held;
  const bool injected = fail_at > 0 && allocations >= fail_at && allocations < fail_at + fail_times;
  if (injected || size > room) {
    counts["out of memory"] += 1;
    TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", size, " bytes. GPU ", index,
                     " has a total capacity of ", card.total, " bytes of which ", injected ? 0 : room, " bytes is free.");
  }
  card.held += size;
  card.peak = std::max(card.peak, card.held);
  card.reserved = std::max(card.reserved, card.held);
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t wanted) override {
    const int card = current;
    const c10::Device device(c10::kCUDA, card);
    touch(card);
    if (wanted == 0) return {nullptr, nullptr, &free_block, device};
    const int64_t size = (int64_t(wanted) + BLOCK - 1) / BLOCK * BLOCK;
    account(card, size);
    void* data = std::aligned_alloc(64, size);
    TORCH_CHECK(data != nullptr, "the host has no memory for the pretended card");
    // As on a card: what was there before is no zeros, and a read before the first write shows.
    std::memset(data, 0xff, size);
    return {data, new Block{data, size, card}, &free_block, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
};
inline DeviceAllocator device_allocator;

inline std::map<const char*, int64_t> pinned;  // where pinned blocks begin -> bytes

inline void free_pinned(void* data) {
  std::lock_guard<std::recursive_mutex> held(lock);
  auto found = pinned.find(static_cast<const char*>(data));
  pinned_held -= found->second;
  pinned.erase(found);
  std::free(data);
}

// Page-locked memory, in blocks of powers of two as CUDA's caching host allocator makes them.
struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t wanted) override {
    if (wanted == 0) return {nullptr, nullptr, &free_pinned, c10::Device(c10::kCPU)};
    int64_t size = 64;
    while (size < int64_t(wanted)) size *= 2;
    std::lock_guard<std::recursive_mutex> held(lock);
    TORCH_CHECK(!pinned_limit || pinned_held + size <= pinned_limit, "CUDA error: out of memory");
    void* data = std::aligned_alloc(64, size);
    TORCH_CHECK(data != nullptr, "the host has no memory to pin");
    pinned[static_cast<const char*>(data)] = size;
    pinned_held += size;
    counts["pinned bytes asked for"] += wanted;
    counts["pinned bytes taken"] += size;
    return {data, data, &free_pinned, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
};
inline PinnedAllocator pinned_allocator;

inline bool is_pinned(const void* data) {
  std::lock_guard<std::recursive_mutex> held(lock);
  auto after = pinned.upper_bound(static_cast<const char*>(data));
  if (after == pinned.begin()) return false;
  auto block = std::prev(after);
  return static_cast<const char*>(data) < block->first + block->second;
}

// A generator of a card; the numbers are the CPU's.
struct Generator final : c10::GeneratorImpl {
  at::Generator numbers;
  explicit Generator(c10::DeviceIndex card)
      : GeneratorImpl(c10::Device(c10::kCUDA, card), c10::DispatchKeySet(c10::DispatchKey::CUDA)),
        numbers(at::detail::createCPUGenerator()) {}
  void set_current_seed(uint64_t seed) override { numbers.set_current_seed(seed); }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  uint64_t current_seed() const override { return numbers.current_seed(); }
  uint64_t seed() override { return numbers.seed(); }
  void set_state(const c10::TensorImpl& state) override { numbers.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return numbers.unsafeGetGeneratorImpl()->get_state(); }
  Generator* clone_impl() const override {
    auto* other = new Generator(device().index());
    other->numbers = numbers.clone();
    return other;
  }
};

inline at::Generator& default_generator(c10::DeviceIndex card) {
  static std::array<at::Generator, CARDS> made = [] {
    std::array<at::Generator, CARDS> all;
    for (int index = 0; index < CARDS; index++) all[index] = at::make_generator<Generator>(index);
    return all;
  }();
  return made[card < 0 ? current : card];
}

struct Hooks final : at::CUDAHooksInterface {
  Hooks(at::CUDAHooksArgs = {}) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex card) const override { return default_generator(card); }
  at::Generator getNewGenerator(c10::DeviceIndex card) const override {
    return at::make_generator<Generator>(card < 0 ? current : card);
  }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  c10::Allocator* getCUDADeviceAllocator() const override { return &device_allocator; }
  c10::DeviceIndex current_device() const override { return current; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex card) const override { current = card; }
  c10::DeviceIndex deviceCount() const override { return CARDS; }
  int getNumGPUs() const override { return CARDS; }
  void deviceSynchronize(c10::DeviceIndex) const override { waits("synchronize"); }
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device device) const override {
    c10::Device before(c10::kCUDA, current);
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return {c10::kCUDA, current}; }
  void setDevice(c10::Device device) const override { uncheckedSetDevice(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) current = device.index();
  }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, with_index(device));
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return getStream(stream.device()); }
  c10::DeviceIndex deviceCount() const noexcept override { return CARDS; }
};

}  // namespace pretended
