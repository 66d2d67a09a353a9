// The board's end of the link: a pseudo terminal and a TCP port on the loopback interface. One client at a time; answers
// go to whoever spoke last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include <poll.h>

class Endpoint {
public:
    // Opens both; throws std::runtime_error, saying which call failed. `port` 0 takes any free one.
    explicit Endpoint(uint16_t port);
    ~Endpoint();
    Endpoint(const Endpoint&) = delete;
    Endpoint& operator=(const Endpoint&) = delete;

    const std::string& pty_path() const { return pty_path_; }
    uint16_t port() const { return port_; }

    // Adds what is to be watched; `wants_out` where bytes wait to leave.
    void watch(std::vector<pollfd>& fds, bool wants_out) const;
    // Whether poll() must not sleep long: nobody has the pty open, so it would report a hang-up at once.
    bool nobody_on_pty() const { return pty_hung_up_; }

    // Appends what clients sent, up to `limit` bytes in all.
    void receive(std::deque<uint8_t>& bytes, size_t limit);
    // Sends what can be sent without waiting. Without a listener bytes are dropped, as on a cable that hangs free.
    void send(std::deque<uint8_t>& bytes);

private:
    void accept_client();
    void drop_client();

    int pty_ = -1, listener_ = -1, client_ = -1;
    std::string pty_path_;
    uint16_t port_ = 0;
    bool pty_hung_up_ = true, answer_to_client_ = false;
};
