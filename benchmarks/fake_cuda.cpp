// What a build of PyTorch without CUDA lacks for fake CUDA tensors: a device guard, which only has to name device 0, and
// hooks that let autograd's engine take CUDA for the accelerator. `enter` puts both in place, `leave` takes them away.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <new>

namespace {

constexpr auto CUDA = c10::DeviceType::CUDA;

struct Guard final : c10::impl::NoOpDeviceGuardImpl<CUDA> {
  c10::Device getDevice() const override { return {CUDA, 0}; }
  c10::Device exchangeDevice(c10::Device) const override { return {CUDA, 0}; }
  c10::Stream getStream(c10::Device device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
};

struct Hooks final : at::CUDAHooksInterface {
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return false; }
};

const Guard guard;

// PyTorch makes its hooks once, at import, and keeps them. They have no state, so another class may take their place.
template <class Other>
void replace_hooks() {
  static_assert(sizeof(Other) == sizeof(at::CUDAHooksInterface));
  new (const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks())) Other();
}

}  // namespace

extern "C" void enter() {
  c10::impl::device_guard_impl_registry[static_cast<size_t>(CUDA)].store(&guard);
  replace_hooks<Hooks>();
}

extern "C" void leave() {
  replace_hooks<at::CUDAHooksInterface>();
  c10::impl::device_guard_impl_registry[static_cast<size_t>(CUDA)].store(nullptr);
}
