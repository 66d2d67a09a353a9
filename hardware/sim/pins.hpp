// One cycle of the board's clock: bytes in and out of the core's streams or, with MX_SERIAL, bits of a serial line.
#pragma once

#include <cstdint>
#include <deque>

#include "Vtop.h"

class Pins {
public:
    explicit Pins(Vtop& top) : top_(top) {}

    void reset() {
        top_.energy_source = 0;
        silence();
        top_.reset = 1;
        for (int i = 0; i < 8; i++) tick();
        top_.reset = 0;
        tick();
    }

#ifndef MX_SERIAL
    bool idle() const { return top_.idle && !top_.out_valid; }

    void cycle(std::deque<uint8_t>& incoming, std::deque<uint8_t>& outgoing, bool room) {
        // Both answers depend on registers alone, so they can be read before the edge.
        top_.in_valid = !incoming.empty();
        top_.in_data = incoming.empty() ? 0 : incoming.front();
        top_.out_ready = room;
        const bool taken = top_.in_valid && top_.in_ready;
        if (top_.out_valid && room) outgoing.push_back(top_.out_data);
        tick();
        if (taken) incoming.pop_front();
    }

private:
    void silence() { top_.in_valid = top_.out_ready = 0; }
#else
    bool idle() const { return top_.idle && quiet_ > 40 * DIVIDER; }

    void cycle(std::deque<uint8_t>& incoming, std::deque<uint8_t>& outgoing, bool) {
        send_bit(incoming);
        tick();
        receive_bit(outgoing);
    }

private:
    static constexpr int DIVIDER = (MX_CLOCK_HZ + MX_BAUD / 2) / MX_BAUD;

    // A start bit, eight bits, two stop bits' time; the lowest bit first.
    void send_bit(std::deque<uint8_t>& incoming) {
        if (send_wait_ > 0) {
            send_wait_--;
            return;
        }
        if (send_left_ == 0) {
            quiet_++;
            if (incoming.empty()) return;
            send_bits_ = 0x600 | incoming.front() << 1;
            send_left_ = 11;
            incoming.pop_front();
        }
        quiet_ = 0;
        top_.rx = send_bits_ & 1;
        send_bits_ >>= 1;
        send_left_--;
        send_wait_ = DIVIDER - 1;
    }

    void receive_bit(std::deque<uint8_t>& outgoing) {
        if (receive_left_ == 0) {
            if (top_.tx) return;
            receive_left_ = 9;
            receive_wait_ = DIVIDER + DIVIDER / 2;
        }
        quiet_ = 0;
        if (--receive_wait_ > 0) return;
        receive_wait_ = DIVIDER;
        if (--receive_left_ > 0) received_ = static_cast<uint8_t>(received_ >> 1 | top_.tx << 7);
        else if (top_.tx) outgoing.push_back(received_);
    }

    void silence() { top_.rx = 1; }

    int send_wait_ = 0, send_left_ = 0, receive_wait_ = 0, receive_left_ = 0, quiet_ = 0;
    unsigned send_bits_ = 0;
    uint8_t received_ = 0;
#endif

    void tick() {
        top_.clk = 1;
        top_.eval();
        top_.clk = 0;
        top_.eval();
    }

    Vtop& top_;
};
