#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include <stdexcept>

#include "port.hpp"

namespace {

[[noreturn]] void fail(const char* what) {
  throw std::runtime_error(std::string("pseudo-terminal: ") + what + ": " + strerror(errno));
}

class Pty : public Port {
 public:
  Pty() { plug(); }
  ~Pty() override { unplug(); }

  std::string url() const override { return path_; }
  bool connected() const override { return connected_; }
  // While no host has the device open, poll() would say so at once, for ever.
  int descriptor() const override { return connected_ ? master_ : -1; }

  bool receive(Bytes& in) override {
    if (master_ < 0) return false;
    const bool before = connected_;
    pollfd state{master_, POLLIN, 0};
    poll(&state, 1, 0);
    connected_ = !(state.revents & POLLHUP);
    // A host that wrote and left is still heard.
    while (state.revents & POLLIN && in.room_size() > 0) {
      const ssize_t got = read(master_, in.room(), in.room_size());
      if (got <= 0) break;
      in.filled(static_cast<size_t>(got));
    }
    return connected_ && !before;
  }

  void send(Bytes& out) override {
    if (!connected_) return out.clear();
    while (!out.empty()) {
      const ssize_t put = write(master_, out.begin(), out.size());
      if (put <= 0) return;
      out.drop(static_cast<size_t>(put));
    }
  }

  void unplug() override {
    if (master_ >= 0) close(master_);
    master_ = -1;
    connected_ = false;
    path_.clear();
  }

  void plug() override {
    if (master_ >= 0) return;
    master_ = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master_ < 0) fail("posix_openpt");
    if (grantpt(master_) || unlockpt(master_)) fail("grantpt");
    const char* name = ptsname(master_);
    if (name == nullptr) fail("ptsname");
    path_ = name;
    // Raw from the start, for hosts that set nothing; the setting outlives the descriptor. Having been open once also
    // makes the kernel report POLLHUP until a host comes.
    const int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) fail(name);
    termios mode{};
    if (tcgetattr(slave, &mode)) fail("tcgetattr");
    cfmakeraw(&mode);
    if (tcsetattr(slave, TCSANOW, &mode)) fail("tcsetattr");
    close(slave);
    if (fcntl(master_, F_SETFL, O_NONBLOCK)) fail("fcntl");
  }

 private:
  int master_ = -1;
  bool connected_ = false;
  std::string path_;
};

}  // namespace

std::unique_ptr<Port> open_pty() { return std::make_unique<Pty>(); }
