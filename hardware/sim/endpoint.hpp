// The board's end of the link: a pseudo terminal and, where asked for, a TCP port on the loopback interface. Nothing here
// ever waits. Answers go to whoever spoke last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include <poll.h>

class Endpoint {
public:
    // `port`: of TCP, 0 any free one, negative none. Throws std::runtime_error, saying which call failed.
    Endpoint(bool with_pty, int port);
    ~Endpoint();
    Endpoint(const Endpoint&) = delete;
    Endpoint& operator=(const Endpoint&) = delete;

    // What to open on the host's side; empty where there is none, or unplugged.
    const std::string& pty() const { return pty_path_; }
    std::string socket() const;

    // Pull the cable: hosts see the port vanish. Plugged again, TCP has its old port; the pty may have another path.
    void unplug();
    void plug();

    // Adds what is to be watched: `wants_in` where there is room for bytes, `wants_out` where bytes wait to leave.
    void watch(std::vector<pollfd>& fds, bool wants_in, bool wants_out) const;
    // poll() must not sleep long: it cannot tell when a host opens a pty, and would report the hang-up at once.
    bool nobody_on_pty() const { return pty_ >= 0 && pty_hung_up_; }

    // Appends what hosts sent, up to `limit` bytes in all. True when a host has come: what was not delivered to the last
    // one is not for this one.
    bool receive(std::deque<uint8_t>& bytes, size_t limit);
    // Sends what can be sent without waiting. Without a listener bytes are dropped, as on a cable that hangs free.
    void send(std::deque<uint8_t>& bytes);

    bool connected() const { return client_ >= 0 || (pty_ >= 0 && !pty_hung_up_); }
    int connections() const { return connections_; }

private:
    void open_pty();
    void open_port();
    void receive_pty(std::deque<uint8_t>& bytes, size_t limit);
    void receive_client(std::deque<uint8_t>& bytes, size_t limit);
    void accept_client();
    void drop_client();

    const bool with_pty_;
    int port_;
    int pty_ = -1, listener_ = -1, client_ = -1;
    std::string pty_path_;
    bool pty_hung_up_ = true, answer_to_client_ = false;
    int connections_ = 0;
};
