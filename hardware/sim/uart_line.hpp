// Both ends of a serial line as seen from the host: 8 data bits, no parity, one stop bit, `divisor` cycles a bit.
#pragma once
#include <cstdint>

#include "bytes.hpp"

class UartSender {
 public:
  explicit UartSender(int divisor) : divisor_(divisor) {}

  // The line's level in this cycle; starts the next byte of `in` when the last one is through.
  bool level(Bytes& in) {
    if (left_ == 0) {
      if (in.empty()) return true;
      character_ = 0x200u | in.front() << 1;  // start bit 0, data from the lowest bit on, stop bit 1
      in.drop(1);
      left_ = 10 * divisor_;
    }
    const int bit = (10 * divisor_ - left_--) / divisor_;
    return character_ >> bit & 1;
  }

  bool quiet() const { return left_ == 0; }

 private:
  int divisor_, left_ = 0;
  uint32_t character_ = 0;
};

class UartReceiver {
 public:
  explicit UartReceiver(int divisor) : divisor_(divisor) {}

  // Look at the line in this cycle; a whole character with a good stop bit goes to `out`.
  void sample(bool level, Bytes& out) {
    if (age_ < 0) {
      if (!level) age_ = 0;
      return;
    }
    age_++;
    if (age_ % divisor_ != divisor_ / 2) return;
    const int bit = age_ / divisor_;
    if (bit >= 1 && bit <= 8) data_ = static_cast<uint8_t>(data_ >> 1 | (level ? 0x80 : 0));
    if (bit == 0 && level) age_ = -1;  // too short for a start bit
    if (bit == 9) {
      age_ = -1;
      if (level && !out.full()) out.push(data_);
    }
  }

  bool quiet() const { return age_ < 0; }

 private:
  int divisor_, age_ = -1;
  uint8_t data_ = 0;
};
