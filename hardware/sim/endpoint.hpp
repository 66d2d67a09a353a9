// The board's end of the link: a pseudo terminal and, where asked for, a TCP port on the loopback interface. Nothing here
// ever waits. One host at a time, on whichever port it comes: the bytes of two would mix.
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

    // Appends what the host sent, up to `limit` bytes in all. Where there is none, lets one in if `admit`: not before the
    // board has done what the last one asked for, or the new one would hear answers that are not for it.
    void receive(std::deque<uint8_t>& bytes, size_t limit, bool admit);
    // Sends what can be sent without waiting. Without a host bytes are dropped, as on a cable that hangs free.
    void send(std::deque<uint8_t>& bytes);
    // Adds what is to be watched: `wants_in` where there is room for bytes, `wants_out` where bytes wait to leave.
    void watch(std::vector<pollfd>& fds, bool wants_in, bool wants_out, bool admit) const;
    // poll() must not sleep long: it cannot tell when a host opens a pty, and would report that there is none, for ever.
    bool awaits_pty() const { return pty_ >= 0 && host_ == Host::NONE; }

    bool connected() const { return host_ != Host::NONE; }
    int connections() const { return connections_; }

private:
    enum class Host { NONE, PTY, TCP };

    void open_pty();
    void open_port();
    void admit_host();
    bool somebody_on_pty() const;
    void turn_away();
    void drop_host();
    int fd() const { return host_ == Host::PTY ? pty_ : client_; }

    const bool with_pty_;
    int port_;
    int pty_ = -1, listener_ = -1, client_ = -1;
    std::string pty_path_;
    Host host_ = Host::NONE;
    int connections_ = 0;
};
