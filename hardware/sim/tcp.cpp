#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <stdexcept>

#include "port.hpp"

namespace {

void prepare(int descriptor) {
  fcntl(descriptor, F_SETFL, O_NONBLOCK);
  fcntl(descriptor, F_SETFD, FD_CLOEXEC);
}

// One host at a time; another is turned away at once, as by a serial port that is in use.
class Tcp : public Port {
 public:
  explicit Tcp(int port) : port_(port) { plug(); }
  ~Tcp() override { unplug(); }

  std::string url() const override {
    return listener_ < 0 ? "" : "socket://127.0.0.1:" + std::to_string(port_);
  }
  bool connected() const override { return host_ >= 0; }
  int descriptor() const override { return host_ >= 0 ? host_ : listener_; }

  bool receive(Bytes& in) override {
    while (host_ >= 0 && in.room_size() > 0) {
      const ssize_t got = recv(host_, in.room(), in.room_size(), 0);
      if (got > 0) {
        in.filled(static_cast<size_t>(got));
      } else {
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) hang_up();
        break;
      }
    }
    // Only now is it certain that a host which is still there has not left.
    return in.room_size() > 0 && welcome();
  }

  void send(Bytes& out) override {
    while (host_ >= 0 && !out.empty()) {
      const ssize_t put = ::send(host_, out.begin(), out.size(), MSG_NOSIGNAL);
      if (put > 0) {
        out.drop(static_cast<size_t>(put));
      } else {
        if (put < 0 && (errno == EAGAIN || errno == EINTR)) return;
        hang_up();
      }
    }
    out.clear();
  }

  void unplug() override {
    hang_up();
    if (listener_ >= 0) close(listener_);
    listener_ = -1;
  }

  void plug() override {
    if (listener_ >= 0) return;
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    const int yes = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    // There is no authentication, so only this machine may come in.
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port_));
    socklen_t size = sizeof address;
    if (listener_ < 0 || bind(listener_, reinterpret_cast<sockaddr*>(&address), size) || listen(listener_, 4) ||
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size)) {
      throw std::runtime_error("TCP port " + std::to_string(port_) + " of 127.0.0.1: " + strerror(errno));
    }
    prepare(listener_);
    port_ = ntohs(address.sin_port);
  }

 private:
  // Let a caller in, if nobody is there; turn the others away.
  bool welcome() {
    bool came = false;
    for (;;) {
      const int caller = listener_ < 0 ? -1 : accept(listener_, nullptr, nullptr);
      if (caller < 0) return came;
      if (host_ >= 0) {
        close(caller);
        continue;
      }
      prepare(caller);
      const int yes = 1;
      setsockopt(caller, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
      host_ = caller;
      came = true;
    }
  }

  void hang_up() {
    if (host_ >= 0) close(host_);
    host_ = -1;
  }

  int port_, listener_ = -1, host_ = -1;
};

}  // namespace

std::unique_ptr<Port> open_tcp(int port) { return std::make_unique<Tcp>(port); }
