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

int checked(int result, const char* what) {
    if (result < 0) throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
    return result;
}

void do_not_block(int fd) { checked(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), "fcntl"); }

}  // namespace

Endpoint::Endpoint(uint16_t port) {
    pty_ = checked(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), "posix_openpt");
    checked(grantpt(pty_), "grantpt");
    checked(unlockpt(pty_), "unlockpt");
    pty_path_ = ptsname(pty_);
    // Raw from the start: a client that opens it must not find an echo.
    const int other_end = checked(open(pty_path_.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC), pty_path_.c_str());
    termios settings{};
    checked(tcgetattr(other_end, &settings), "tcgetattr");
    cfmakeraw(&settings);
    checked(tcsetattr(other_end, TCSANOW, &settings), "tcsetattr");
    close(other_end);
    do_not_block(pty_);

    listener_ = checked(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "socket");
    const int one = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);  // nobody outside this machine: the link knows no passwords
    address.sin_port = htons(port);
    checked(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), "bind to 127.0.0.1");
    checked(listen(listener_, 1), "listen");
    socklen_t size = sizeof address;
    checked(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), "getsockname");
    port_ = ntohs(address.sin_port);
}

Endpoint::~Endpoint() {
    for (const int fd : {pty_, listener_, client_})
        if (fd >= 0) close(fd);
}

void Endpoint::watch(std::vector<pollfd>& fds, bool wants_out) const {
    const short out = wants_out ? POLLOUT : 0;
    if (!pty_hung_up_) fds.push_back({pty_, static_cast<short>(POLLIN | (answer_to_client_ ? 0 : out)), 0});
    fds.push_back({listener_, POLLIN, 0});
    if (client_ >= 0) fds.push_back({client_, static_cast<short>(POLLIN | (answer_to_client_ ? out : 0)), 0});
}

void Endpoint::receive(std::deque<uint8_t>& bytes, size_t limit) {
    accept_client();
    uint8_t buffer[16384];
    for (const int fd : {pty_, client_}) {
        if (fd < 0) continue;
        while (bytes.size() < limit) {
            const ssize_t count = read(fd, buffer, std::min(sizeof buffer, limit - bytes.size()));
            if (fd == pty_) pty_hung_up_ = count < 0 && errno == EIO;
            if (count > 0) {
                bytes.insert(bytes.end(), buffer, buffer + count);
                answer_to_client_ = fd == client_;
            } else {
                if (fd == client_ && (count == 0 || (errno != EAGAIN && errno != EINTR))) drop_client();
                break;
            }
        }
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
            if (fd == client_ && errno != EAGAIN && errno != EINTR) drop_client();
            return;
        }
        bytes.erase(bytes.begin(), bytes.begin() + count);
    }
}

void Endpoint::accept_client() {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    if (client_ >= 0) {  // busy, as a serial port would be
        close(fd);
        return;
    }
    const int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    client_ = fd;
}

void Endpoint::drop_client() {
    close(client_);
    client_ = -1;
}
