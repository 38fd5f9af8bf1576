// wrapped_device.h: a device each of whose queues wears a wrapper (fault, pcap). The wrapped device comes along.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dataplane/port.h"

namespace wireplane {

// Wrapper is a Port; `make(Port& queue, unsigned worker)` builds one as std::unique_ptr<Wrapper>.
template <class Device, class Wrapper>
class WrappedDeviceBase : public Device {
 public:
  template <class Make>
  WrappedDeviceBase(std::unique_ptr<Device> device, std::string prefix, Make make)
      : device_{std::move(device)}, prefix_{std::move(prefix)} {
    for (unsigned i = 0; i < device_->queues(); ++i) ports_.push_back(make(device_->queue(i), i));
  }
  [[nodiscard]] unsigned queues() const override { return device_->queues(); }
  [[nodiscard]] Port& queue(unsigned worker) override { return *ports_.at(worker); }
  [[nodiscard]] std::string describe() const override { return prefix_ + " over " + device_->describe(); }
  [[nodiscard]] Wrapper& wrapper(unsigned worker) { return *ports_.at(worker); }
  [[nodiscard]] Device& wrapped() { return *device_; }

 protected:
  std::unique_ptr<Device> device_;

 private:
  std::string prefix_;
  std::vector<std::unique_ptr<Wrapper>> ports_;  // after device_: they go first
};

template <class Wrapper>
class WrappedOuterDevice final : public WrappedDeviceBase<OuterDevice, Wrapper> {
 public:
  using WrappedDeviceBase<OuterDevice, Wrapper>::WrappedDeviceBase;
  Status set_listen_port(std::uint16_t port) override { return this->device_->set_listen_port(port); }
  [[nodiscard]] std::uint16_t listen_port() const override { return this->device_->listen_port(); }
  Status set_fwmark(std::uint32_t mark) override { return this->device_->set_fwmark(mark); }
};

template <class Wrapper>
using WrappedInnerDevice = WrappedDeviceBase<InnerDevice, Wrapper>;

}  // namespace wireplane
