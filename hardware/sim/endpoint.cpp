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
    drop_host();
    for (int* fd : {&pty_, &listener_}) {
        if (*fd >= 0) close(*fd);
        *fd = -1;
    }
    pty_path_.clear();
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

void Endpoint::receive(std::deque<uint8_t>& bytes, size_t limit, bool admit) {
    if (host_ == Host::NONE && admit) admit_host();
    while (host_ != Host::NONE && bytes.size() < limit) {
        uint8_t buffer[16384];
        const ssize_t count = read(fd(), buffer, std::min(sizeof buffer, limit - bytes.size()));
        if (count > 0) {
            bytes.insert(bytes.end(), buffer, buffer + count);
        } else {
            if (count == 0 || !later()) drop_host();  // a pty that nobody has open says EIO
            break;
        }
    }
    // Had the last one left, its place would be free by now.
    if (host_ != Host::NONE && bytes.size() < limit) turn_away();
}

void Endpoint::admit_host() {
    const int caller = listener_ < 0 ? -1 : accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (caller >= 0) {
        const int one = 1;
        setsockopt(caller, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        client_ = caller;
        host_ = Host::TCP;
    } else if (somebody_on_pty()) {
        host_ = Host::PTY;
    } else {
        return;
    }
    connections_++;
}

// Also when it has left again: then there may be bytes.
bool Endpoint::somebody_on_pty() const {
    pollfd state{pty_, POLLIN, 0};
    return pty_ >= 0 && poll(&state, 1, 0) >= 0 && (!(state.revents & POLLHUP) || state.revents & POLLIN);
}

// Busy, as a serial port would be.
void Endpoint::turn_away() {
    while (listener_ >= 0) {
        const int caller = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        if (caller < 0) return;
        close(caller);
    }
}

void Endpoint::drop_host() {
    if (client_ >= 0) close(client_);
    client_ = -1;
    host_ = Host::NONE;
}

void Endpoint::send(std::deque<uint8_t>& bytes) {
    while (host_ != Host::NONE && !bytes.empty()) {
        uint8_t buffer[4096];
        const size_t size = std::min(sizeof buffer, bytes.size());
        std::copy_n(bytes.begin(), size, buffer);
        const ssize_t count =
            host_ == Host::TCP ? ::send(client_, buffer, size, MSG_NOSIGNAL) : write(pty_, buffer, size);
        if (count <= 0) {
            if (count == 0 || later()) return;
            drop_host();
        } else {
            bytes.erase(bytes.begin(), bytes.begin() + count);
        }
    }
    bytes.clear();
}

void Endpoint::watch(std::vector<pollfd>& fds, bool wants_in, bool wants_out, bool admit) const {
    const short events = static_cast<short>((wants_in ? POLLIN : 0) | (wants_out ? POLLOUT : 0));
    // With nothing to wait for, poll() would still report that the host has left, at once and for ever.
    if (host_ != Host::NONE && events != 0) fds.push_back({fd(), events, 0});
    if (listener_ >= 0 && (admit || (host_ != Host::NONE && wants_in))) fds.push_back({listener_, POLLIN, 0});
}
