#include "endpoint.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

namespace {

int checked(int result, const std::string& what) {
    if (result < 0) throw std::runtime_error(what + ": " + std::strerror(errno));
    return result;
}

void do_not_block(int fd) { checked(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), "fcntl"); }

bool later() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

// One read of at most `limit` bytes in all; what read() answered.
ssize_t append(int fd, std::deque<uint8_t>& bytes, size_t limit) {
    uint8_t buffer[16384];
    const ssize_t count = read(fd, buffer, std::min(sizeof buffer, limit - bytes.size()));
    if (count > 0) bytes.insert(bytes.end(), buffer, buffer + count);
    return count;
}

}  // namespace

Endpoint::Endpoint(bool with_pty, int port) : with_pty_(with_pty), port_(port) { plug(); }

Endpoint::~Endpoint() { unplug(); }

std::string Endpoint::socket() const {
    return listener_ < 0 ? "" : "socket://127.0.0.1:" + std::to_string(port_);
}

void Endpoint::plug() {
    if (with_pty_ && pty_ < 0) open_pty();
    if (port_ >= 0 && listener_ < 0) open_port();
}

void Endpoint::unplug() {
    drop_client();
    for (int* fd : {&pty_, &listener_}) {
        if (*fd >= 0) close(*fd);
        *fd = -1;
    }
    pty_path_.clear();
    pty_hung_up_ = true;
}

void Endpoint::open_pty() {
    pty_ = checked(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), "posix_openpt");
    checked(grantpt(pty_), "grantpt");
    checked(unlockpt(pty_), "unlockpt");
    pty_path_ = ptsname(pty_);
    // Raw from the start: a host that opens it must not find an echo. Having been open once also makes reads say EIO until a
    // host comes.
    const int other_end = checked(open(pty_path_.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC), pty_path_);
    termios settings{};
    checked(tcgetattr(other_end, &settings), "tcgetattr");
    cfmakeraw(&settings);
    checked(tcsetattr(other_end, TCSANOW, &settings), "tcsetattr");
    close(other_end);
    do_not_block(pty_);
}

void Endpoint::open_port() {
    listener_ = checked(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "socket");
    const int one = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);  // nobody outside this machine: the link knows no passwords
    address.sin_port = htons(static_cast<uint16_t>(port_));
    checked(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address),
            "bind to 127.0.0.1, port " + std::to_string(port_));
    checked(listen(listener_, 1), "listen");
    socklen_t size = sizeof address;
    checked(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), "getsockname");
    port_ = ntohs(address.sin_port);
}

void Endpoint::watch(std::vector<pollfd>& fds, bool wants_in, bool wants_out) const {
    const auto events = [&](bool answered) {
        return static_cast<short>((wants_in ? POLLIN : 0) | (wants_out && answered ? POLLOUT : 0));
    };
    // With nothing to wait for, poll() would still report a hang-up, at once and for ever.
    const short pty = events(!answer_to_client_), client = events(answer_to_client_);
    if (pty_ >= 0 && !pty_hung_up_ && pty != 0) fds.push_back({pty_, pty, 0});
    if (client_ >= 0 && client != 0) fds.push_back({client_, client, 0});
    if (listener_ >= 0) fds.push_back({listener_, POLLIN, 0});
}

bool Endpoint::receive(std::deque<uint8_t>& bytes, size_t limit) {
    const int before = connections_;
    receive_pty(bytes, limit);
    receive_client(bytes, limit);
    // After the reads: only now is it known whether the last one has left.
    accept_client();
    return connections_ != before;
}

void Endpoint::receive_pty(std::deque<uint8_t>& bytes, size_t limit) {
    while (pty_ >= 0 && bytes.size() < limit) {
        const ssize_t count = append(pty_, bytes, limit);
        const bool hung_up = count < 0 && errno == EIO;
        if (pty_hung_up_ && !hung_up) {
            connections_++;
            answer_to_client_ = false;
        }
        pty_hung_up_ = hung_up;
        if (count <= 0) return;
        answer_to_client_ = false;
    }
}

void Endpoint::receive_client(std::deque<uint8_t>& bytes, size_t limit) {
    while (client_ >= 0 && bytes.size() < limit) {
        const ssize_t count = append(client_, bytes, limit);
        if (count == 0 || (count < 0 && !later())) drop_client();
        if (count <= 0) return;
        answer_to_client_ = true;
    }
}

void Endpoint::send(std::deque<uint8_t>& bytes) {
    const int fd = answer_to_client_ ? client_ : pty_;
    if (fd < 0 || (fd == pty_ && pty_hung_up_)) {
        bytes.clear();
        return;
    }
    while (!bytes.empty()) {
        uint8_t buffer[4096];
        const size_t size = std::min(sizeof buffer, bytes.size());
        std::copy_n(bytes.begin(), size, buffer);
        const ssize_t count = fd == client_ ? ::send(fd, buffer, size, MSG_NOSIGNAL) : write(fd, buffer, size);
        if (count <= 0) {
            if (fd == client_ && !later()) drop_client();
            return;
        }
        bytes.erase(bytes.begin(), bytes.begin() + count);
    }
}

void Endpoint::accept_client() {
    while (listener_ >= 0) {
        const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) return;
        if (client_ >= 0) {  // busy, as a serial port would be
            close(fd);
            continue;
        }
        const int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        client_ = fd;
        answer_to_client_ = true;
        connections_++;
    }
}

void Endpoint::drop_client() {
    if (client_ >= 0) close(client_);
    client_ = -1;
}
