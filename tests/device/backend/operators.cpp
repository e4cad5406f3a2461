// A pretended CUDA backend for a PyTorch without one: "cuda" is then a device with real numbers in host memory.
//
// Every operation computes on the CPU, on the same bytes, after a check that CUDA would make: all tensors on one card
// (numbers without dimensions excepted). Views, copies and memory are a card's own.
#include "memory.h"

#include <ATen/EmptyTensor.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <torch/library.h>
#include <set>

namespace pretended {

using Size = c10::IntArrayRef;
template <typename T>
using Maybe = std::optional<T>;

const c10::DispatchKeySet CUDA_KEY(c10::DispatchKey::CUDA), CPU_KEY(c10::DispatchKey::CPU);

at::ScalarType type_of(Maybe<at::ScalarType> asked) {
  return asked.value_or(at::typeMetaToScalarType(at::get_default_dtype()));
}

at::Tensor empty(Size size, Maybe<at::ScalarType> dtype, Maybe<at::Layout>, Maybe<c10::Device> device, Maybe<bool> pin,
                 Maybe<at::MemoryFormat> format) {
  TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
  OnCard on(with_index(device));
  return at::detail::empty_generic(size, &device_allocator, CUDA_KEY, type_of(dtype), format);
}

at::Tensor empty_strided(Size size, Size stride, Maybe<at::ScalarType> dtype, Maybe<at::Layout>, Maybe<c10::Device> device,
                         Maybe<bool>) {
  OnCard on(with_index(device));
  return at::detail::empty_strided_generic(size, stride, &device_allocator, CUDA_KEY, type_of(dtype));
}

// The bytes of a tensor, seen as a CPU tensor. Keeps the tensor alive.
at::Tensor on_host(const at::Tensor& tensor) {
  if (!tensor.is_cuda()) return tensor;
  auto release = [](void* kept) { delete static_cast<at::Tensor*>(kept); };
  c10::DataPtr data(tensor.storage().mutable_data(), new at::Tensor(tensor), release, c10::Device(c10::kCPU));
  c10::Storage storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), std::move(data),
                       c10::GetAllocator(c10::kCPU), true);
  auto seen = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), CPU_KEY, tensor.dtype());
  seen.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  if (tensor.is_conj()) seen._set_conj(true);
  if (tensor.is_neg()) seen._set_neg(true);
  return seen;
}

at::Tensor on_card(const at::Tensor& tensor, c10::Device device) {
  if (!tensor.defined()) return tensor;
  auto copy = empty_strided(tensor.sizes(), tensor.strides(), tensor.scalar_type(), std::nullopt, device, std::nullopt);
  on_host(copy).copy_(tensor);
  return copy;
}

// Counts a copy, and says whether the host waits for it: CUDA's is asynchronous between pinned memory and a card only,
// and for the same numbers in the same order.
void note_copy(const at::Tensor& to, const at::Tensor& from, bool non_blocking) {
  if (to.is_cuda() == from.is_cuda()) {
    if (to.is_cuda() && to.device() != from.device()) count("bytes between cards", from.nbytes());
    return;
  }
  const at::Tensor& host = to.is_cuda() ? from : to;
  const bool plain = to.scalar_type() == from.scalar_type() && from.is_non_overlapping_and_dense() && from.strides() == to.strides();
  const bool asynchronous = non_blocking && plain && is_pinned(host.storage().data());
  const std::string way = to.is_cuda() ? "to the card" : "to the host";
  count("bytes " + way, from.nbytes());
  if (!asynchronous) waits("copy " + way);
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  note_copy(self, source, non_blocking);
  if (self.is_cuda()) touch(self.device().index());
  if (source.is_cuda()) touch(source.device().index());
  on_host(self).copy_(on_host(source));
  return self;
}

at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target, bool non_blocking) {
  auto self = target;
  return copy_(self, source, non_blocking);
}

at::Tensor copy_from_and_resize(const at::Tensor& source, const at::Tensor& target) {
  if (target.sizes() != source.sizes()) target.resize_(source.sizes());
  return copy_from(source, target, false);
}

void foreach_copy_(at::TensorList to, at::TensorList from, bool non_blocking) {
  for (size_t index = 0; index < to.size(); index++) to[index].copy_(from[index], non_blocking);
}

const at::Tensor& resize_(const at::Tensor& self, Size size, Maybe<at::MemoryFormat>) {
  const size_t wanted = at::detail::computeStorageNbytesContiguous(size, self.dtype().itemsize(), self.storage_offset());
  auto* storage = self.storage().unsafeGetStorageImpl();
  if (wanted > storage->nbytes()) {
    OnCard on(self.device());
    auto fresh = device_allocator.allocate(wanted);
    if (storage->nbytes()) std::memcpy(fresh.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(fresh));
    storage->set_nbytes(wanted);
  }
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return self;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source, int64_t offset, Size size, Size stride) {
  return at::native::set_storage_cpu_(self, source, offset, size, stride);
}

at::Tensor& set_empty(at::Tensor& self) {
  auto nothing = at::empty({0}, self.options());
  return self.set_(nothing.storage(), 0, {0}, {1});
}

at::Scalar item(const at::Tensor& self) {
  waits("item");
  return on_host(self).item();
}

// Attention is computed by its formula, as no fused kernel is there.
int64_t attention(const at::Tensor&, const at::Tensor&, const at::Tensor&, const Maybe<at::Tensor>&, double, bool,
                  Maybe<double>, bool) {
  return 0;
}

void record_stream(at::Tensor& self, c10::Stream) { count("record_stream"); }

at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight, const Maybe<at::Tensor>& bias, Size stride,
                       Size padding, Size dilation, bool transposed, Size output_padding, int64_t groups) {
  const bool has_bias = bias.has_value() && bias->defined();
  const bool together = input.device() == weight.device() && (!has_bias || bias->device() == input.device());
  if (!together) count("mixed devices: convolution");
  TORCH_CHECK(together, "Input type (", input.device(), ") and weight type (", weight.device(), ") should be the same");
  TORCH_CHECK(input.scalar_type() == weight.scalar_type(), "Input type (", input.scalar_type(), ") and weight type (",
              weight.scalar_type(), ") should be the same");
  touch(input.device().index());
  Maybe<at::Tensor> host_bias = has_bias ? Maybe<at::Tensor>(on_host(*bias)) : std::nullopt;
  return on_card(at::convolution(on_host(input), on_host(weight), host_bias, stride, padding, dilation, transposed,
                                 output_padding, groups), input.device());
}

// Operations that take tensors of both sides, that refuse even a number of the other one, and that wait.
const std::set<std::string> ANYWHERE = {"aten::index.Tensor", "aten::index.Tensor_out", "aten::index_put_",
                                        "aten::_index_put_impl_", "aten::set_.source_Tensor"};
const std::set<std::string> STRICT = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::embedding",
                                      "aten::native_layer_norm", "aten::native_group_norm", "aten::cat",
                                      "aten::index_select", "aten::gather", "aten::linear", "aten::addmm.out"};
const std::set<std::string> WAITING = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal",
                                       "aten::linalg_solve_ex", "aten::_linalg_solve_ex", "aten::_linalg_check_errors"};

void visit(const c10::IValue& value, std::vector<at::Tensor>& found) {
  auto add = [&](const at::Tensor& tensor) { if (tensor.defined()) found.push_back(tensor); };
  if (value.isTensor()) add(value.toTensor());
  else if (value.isTensorList()) for (const auto& each : value.toTensorVector()) add(each);
  else if (value.isOptionalTensorList()) for (const auto& each : value.toOptionalTensorVector()) if (each) add(*each);
}

// The card that an operation belongs to, if a tensor of it is on one. Raises as CUDA does for tensors of several places.
Maybe<c10::Device> card_of(const std::string& name, const std::vector<at::Tensor>& tensors) {
  Maybe<c10::Device> device;
  for (const auto& each : tensors) if (each.is_cuda()) { device = each.device(); break; }
  if (!device || ANYWHERE.count(name)) return device;
  for (const auto& each : tensors) {
    const bool number = each.device().is_cpu() && each.dim() == 0 && !STRICT.count(name);
    if (each.device() == *device || number) continue;
    count("mixed devices: " + name);
    TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", *device,
                " and ", each.device(), "! (when checking arguments of ", name, ")");
  }
  return device;
}

at::Generator numbers_of(const at::Generator& generator, c10::Device device) {
  TORCH_CHECK(generator.device() == device, "Expected a '", device, "' device type for generator but found '",
              generator.device(), "'");
  return static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->numbers;
}

// An argument as the CPU's kernel takes it.
c10::IValue argument_on_host(const c10::IValue& value, c10::Device device) {
  if (value.isTensor() && value.toTensor().defined()) return on_host(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const auto& each : value.toTensorVector()) list.push_back(each.defined() ? on_host(each) : each);
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<Maybe<at::Tensor>> list;
    for (const auto& each : value.toOptionalTensorVector())
      list.push_back(each && each->defined() ? Maybe<at::Tensor>(on_host(*each)) : each);
    return list;
  }
  if (value.isDevice()) return c10::Device(c10::kCPU);
  if (value.isGenerator()) return numbers_of(value.toGenerator(), device);
  return value;
}

// After an operation that wrote to `before`, seen as `now`: a size that it changed is changed on the card, too.
void write_back(const at::Tensor& before, const at::Tensor& now) {
  const bool same_memory = now.storage().data() == before.storage().data();
  if (same_memory && before.sizes() == now.sizes() && before.strides() == now.strides()) return;
  if (same_memory) {
    before.unsafeGetTensorImpl()->set_sizes_and_strides(now.sizes(), now.strides(), now.storage_offset());
    return;
  }
  auto moved = on_card(now, before.device());
  before.set_(moved.storage(), 0, moved.sizes(), moved.strides());
}

bool writes(const c10::Argument& argument) { return argument.alias_info() != nullptr && argument.alias_info()->isWrite(); }

// A result of the CPU's kernel: the argument that it was written to, or brought to the card.
c10::IValue result_on_card(const c10::IValue& value, const c10::Argument& declared, const c10::FunctionSchema& schema,
                           const std::vector<c10::IValue>& given, c10::Device device) {
  if (writes(declared)) {
    for (size_t index = 0; index < given.size(); index++) {
      const auto* alias = schema.arguments()[index].alias_info();
      if (alias != nullptr && *alias == *declared.alias_info()) return given[index];
    }
    return value;
  }
  if (value.isTensor() && value.toTensor().defined()) {
    TORCH_CHECK(declared.alias_info() == nullptr, "no view is expected here: ", schema.name());
    return on_card(value.toTensor(), device);
  }
  if (!value.isTensorList()) return value;
  c10::List<at::Tensor> list;
  for (const auto& each : value.toTensorVector()) list.push_back(on_card(each, device));
  return list;
}

bool draws(const std::string& name) {
  for (const char* each : {"aten::normal_", "aten::uniform_", "aten::bernoulli_", "aten::random_", "aten::multinomial"})
    if (name.rfind(each, 0) == 0) return true;
  return false;
}

// Without a generator of its own, an operation draws from that of its card.
void fill_in_generator(const std::string& name, const c10::FunctionSchema& schema, torch::jit::Stack* stack, size_t begin, c10::Device device) {
  if (!draws(name)) return;
  for (size_t index = 0; index < schema.arguments().size(); index++) {
    auto& value = (*stack)[begin + index];
    if (schema.arguments()[index].name() != "generator" || !value.isNone()) continue;
    count("draws of the global generator");
    value = default_generator(device.index());
  }
}

void fallback(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const auto& schema = operation.schema();
  const size_t arguments = schema.arguments().size(), begin = stack->size() - arguments;
  const auto& called = operation.operator_name();
  const std::string name = called.overload_name.empty() ? called.name : called.name + "." + called.overload_name;
  std::vector<at::Tensor> tensors;
  Maybe<c10::Device> asked;
  for (size_t index = 0; index < arguments; index++) {
    const auto& value = (*stack)[begin + index];
    visit(value, tensors);
    if (value.isDevice() && value.toDevice().is_cuda()) asked = with_index(value.toDevice());
  }
  const Maybe<c10::Device> own = card_of(name, tensors);
  const c10::Device device = own ? *own : with_index(asked);
  touch(device.index());
  if (WAITING.count(name)) waits(called.name);
  if (called.name == "aten::index" && tensors.size() > 1)
    for (size_t index = 1; index < tensors.size(); index++)
      if (tensors[index].is_cpu() || tensors[index].scalar_type() == at::kBool) waits("index");
  fill_in_generator(name, schema, stack, begin, device);
  const std::vector<c10::IValue> given(stack->begin() + begin, stack->end());
  for (size_t index = 0; index < arguments; index++) (*stack)[begin + index] = argument_on_host(given[index], device);
  const std::vector<c10::IValue> passed(stack->begin() + begin, stack->end());
  operation.redispatchBoxed(CPU_KEY, stack);
  for (size_t index = 0; index < arguments; index++) {
    if (!writes(schema.arguments()[index]) || !given[index].isTensor() || !given[index].toTensor().defined()) continue;
    if (given[index].toTensor().is_cuda()) write_back(given[index].toTensor(), passed[index].toTensor());
  }
  const auto& returns = schema.returns();
  const size_t first = stack->size() - returns.size();
  for (size_t index = 0; index < returns.size(); index++)
    (*stack)[first + index] = result_on_card((*stack)[first + index], returns[index], schema, given, device);
}

// For the tests.

std::string report() {
  std::lock_guard<std::recursive_mutex> held(lock);
  std::string text;
  for (auto& [what, times] : counts) text += what + "\t" + std::to_string(times) + "\n";
  return text;
}

int64_t ask(const std::string& what, int64_t card) {
  std::lock_guard<std::recursive_mutex> held(lock);
  const Card& one = cards[card];
  const std::map<std::string, int64_t> answers = {
      {"held", one.held}, {"peak", one.peak}, {"reserved", one.reserved}, {"total", one.total},
      {"neighbour", one.neighbour}, {"touches", one.touches}, {"allocations", allocations}, {"current", current},
      {"pinned", pinned_held}};
  return answers.at(what);
}

void tell(const std::string& what, int64_t card, int64_t value) {
  std::lock_guard<std::recursive_mutex> held(lock);
  Card& one = cards[card];
  if (what == "total") one.total = value;
  else if (what == "neighbour") one.neighbour = value;
  else if (what == "current") current = card;
  else if (what == "reset peak") one.peak = one.held;
  else if (what == "empty cache") { for (auto& each : cards) each.reserved = each.held; counts["empty_cache"] += 1; }
  else if (what == "wait") waits("synchronize");
  else if (what == "forget counts") { counts.clear(); for (auto& each : cards) each.touches = 0; }
  else if (what == "pinned limit") pinned_limit = value;
  else TORCH_CHECK(false, what);
}

void fail(int64_t from_now, int64_t times) {
  std::lock_guard<std::recursive_mutex> held(lock);
  fail_at = times ? allocations + from_now : 0;
  fail_times = times;
}

void seed(int64_t number) { for (int card = 0; card < CARDS; card++) default_generator(card).set_current_seed(number); }

struct Registered {
  Registered() { c10::SetAllocator(c10::kCUDA, &device_allocator); }
} registered;

}  // namespace pretended

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, pretended::Guard)
}
namespace at {
using PretendedHooks = pretended::Hooks;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, PretendedHooks)
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&pretended::fallback>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", pretended::empty);
  library.impl("empty_strided", pretended::empty_strided);
  library.impl("copy_", pretended::copy_);
  library.impl("_copy_from", pretended::copy_from);
  library.impl("_copy_from_and_resize", pretended::copy_from_and_resize);
  library.impl("_foreach_copy_", pretended::foreach_copy_);
  library.impl("resize_", pretended::resize_);
  library.impl("record_stream", pretended::record_stream);
  library.impl("as_strided", at::native::as_strided_tensorimpl);
  library.impl("view", at::native::view);
  library.impl("_reshape_alias", at::native::_reshape_alias);
  library.impl("unfold", at::native::unfold);
  library.impl("view_as_real", at::native::view_as_real);
  library.impl("view_as_complex", at::native::view_as_complex);
  library.impl("set_.source_Storage_storage_offset", pretended::set_storage);
  library.impl("set_.source_Tensor", at::native::set_tensor_);
  library.impl("set_", pretended::set_empty);
  library.impl("_local_scalar_dense", pretended::item);
  library.impl("_fused_sdp_choice", pretended::attention);
  library.impl("convolution", pretended::convolution);
}

TORCH_LIBRARY(pretended, library) {
  library.def("report() -> str", pretended::report);
  library.def("ask(str what, int card) -> int", pretended::ask);
  library.def("tell(str what, int card, int value) -> ()", pretended::tell);
  library.def("fail(int from_now, int times) -> ()", pretended::fail);
  library.def("seed(int number) -> ()", pretended::seed);
}
