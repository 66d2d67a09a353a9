// The model of the board, one clock cycle at a time, and what its host sees of it: bytes.
#pragma once
#include <verilated.h>

#include <memory>

#include "Vboard.h"
#include "bytes.hpp"
#ifdef MX_BIT_LEVEL
#include "uart_line.hpp"
#endif

class Board {
 public:
  explicit Board(VerilatedContext& context) : top_(std::make_unique<Vboard>(&context)) { reset(); }
  ~Board() { top_->final(); }

  uint64_t cycles() const { return cycles_; }

  // Press the reset button. Bytes on their way into the board are lost.
  void reset() {
    top_->reset = 1;
    Bytes nothing(1), lost(RESET_CYCLES);
    for (int i = 0; i < RESET_CYCLES; i++) cycle(nothing, lost);
    top_->reset = 0;
    quiet_ = 0;
  }

  // Run until the board has nothing more to do, `out` is full, or so many cycles have passed.
  void run(Bytes& in, Bytes& out, int cycles) {
    while (cycles-- > 0 && !out.full() && !(in.empty() && idle())) cycle(in, out);
  }

  // Nothing has moved for a while and the board says that nothing will: time may stand still until a byte comes.
  bool idle() const { return quiet_ >= QUIET_CYCLES; }

 private:
  static constexpr int RESET_CYCLES = 16;

#ifdef MX_BIT_LEVEL
  static constexpr int QUIET_CYCLES = 16 * MX_BIT_LEVEL;  // longer than a character on the line

  void cycle(Bytes& in, Bytes& out) {
    top_->uart_rx = to_board_.level(in);
    clock();
    from_board_.sample(top_->uart_tx, out);
    quiet_ = in.empty() && top_->idle && to_board_.quiet() && from_board_.quiet() ? quiet_ + 1 : 0;
  }

  UartSender to_board_{MX_BIT_LEVEL};
  UartReceiver from_board_{MX_BIT_LEVEL};
#else
  static constexpr int QUIET_CYCLES = 16;

  void cycle(Bytes& in, Bytes& out) {
    top_->in_valid = !in.empty();
    if (!in.empty()) top_->in_data = in.front();
    top_->out_ready = !out.full();
    top_->clk = 0;
    top_->eval();
    const bool taken = !in.empty() && top_->in_ready && !top_->reset;
    const bool given = !out.full() && top_->out_valid && !top_->reset;
    if (given) out.push(top_->out_data);
    top_->clk = 1;
    top_->eval();
    cycles_++;
    if (taken) in.drop(1);
    quiet_ = top_->idle && !taken && !given ? quiet_ + 1 : 0;
  }
#endif

  void clock() {
    top_->clk = 0;
    top_->eval();
    top_->clk = 1;
    top_->eval();
    cycles_++;
  }

  std::unique_ptr<Vboard> top_;
  uint64_t cycles_ = 0;
  int quiet_ = 0;
};
