// A bounded queue of bytes between a port and the model. No copies, no allocation after construction.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

class Bytes {
 public:
  explicit Bytes(size_t capacity) : data_(capacity) {}

  bool empty() const { return at_ == end_; }
  bool full() const { return end_ == data_.size(); }
  size_t size() const { return end_ - at_; }
  uint8_t front() const { return data_[at_]; }
  const uint8_t* begin() const { return data_.data() + at_; }

  void push(uint8_t byte) { data_[end_++] = byte; }
  void drop(size_t count) {
    at_ += count;
    if (at_ == end_) clear();
  }
  void clear() { at_ = end_ = 0; }

  // Room behind the last byte, for a read(); filled() says how much of it was used.
  uint8_t* room() { return data_.data() + end_; }
  size_t room_size() const { return data_.size() - end_; }
  void filled(size_t count) { end_ += count; }

 private:
  std::vector<uint8_t> data_;
  size_t at_ = 0, end_ = 0;
};
