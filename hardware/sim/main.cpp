// The simulated board as a process: a Verilator model behind a port. hardware/mx_fpga/simulator.py starts it.
//
// It says one line of JSON when the port is open, then answers the words that come on its standard input: reset, unplug,
// plug, pause, resume, stats. It ends when its standard input does, or when its parent is gone.
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <chrono>
#include <stdexcept>
#include <string>

#include "board.hpp"
#include "port.hpp"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Options {
  std::string transport = "pty";
  int tcp_port = 0;
  pid_t parent = 0;       // 0: started by hand, nobody to outlive
  bool die_with_thread = false;
  double max_idle = 0;    // seconds without a byte from the host after which to end; 0: never
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i++) {
    const std::string argument = argv[i];
    auto value = [&] {
      if (++i == argc) throw std::runtime_error(argument + " needs a value");
      return std::string(argv[i]);
    };
    if (argument == "--transport") options.transport = value();
    else if (argument == "--port") options.tcp_port = std::stoi(value());
    else if (argument == "--parent") options.parent = std::stoi(value());
    else if (argument == "--die-with-thread") options.die_with_thread = true;
    else if (argument == "--max-idle") options.max_idle = std::stod(value());
    else if (argument[0] != '+') throw std::runtime_error("unknown option " + argument);
  }
  if (options.transport != "pty" && options.transport != "tcp")
    throw std::runtime_error("--transport " + options.transport + ": valid are pty and tcp");
  return options;
}

class Simulation {
 public:
  Simulation(const Options& options, VerilatedContext& context)
      : options_(options),
        port_(options.transport == "tcp" ? open_tcp(options.tcp_port) : open_pty()),
        board_(context) {}

  void serve() {
    say_url();
    while (!ended_) {
      if (port_->receive(in_)) {
        out_.clear();  // what the last host did not take is not for this one
        connections_++;
      }
      if (in_.size() > 0) heard_ = Clock::now();
      const bool blocked = out_.full() || paused_;
      if (!blocked && !(in_.empty() && board_.idle())) advance();
      port_->send(out_);
      const bool working = !paused_ && !out_.full() && !(in_.empty() && board_.idle());
      wait(working ? 0 : POLL_MS);
    }
  }

 private:
  static constexpr int BATCH = 8192;    // cycles between two looks at the port
  static constexpr int POLL_MS = 250;   // and at the parent, while nothing happens
  static constexpr int HANGING_MS = 20; // until a host opens the pseudo-terminal, which no descriptor tells

  void advance() {
    const auto start = Clock::now();
    board_.run(in_, out_, BATCH);
    busy_seconds_ += seconds_since(start);
  }

  // Sleep until the host, the parent or the time calls.
  void wait(int milliseconds) {
    pollfd waits[2] = {{port_->descriptor(), 0, 0}, {options_.parent ? STDIN_FILENO : -1, POLLIN, 0}};
    if (in_.room_size() > 0 && !paused_) waits[0].events |= POLLIN;
    if (!out_.empty()) waits[0].events |= POLLOUT;
    if (waits[0].events == 0) waits[0].fd = -1;
    const bool hanging = port_->descriptor() < 0 && !port_->url().empty();
    poll(waits, 2, milliseconds > 0 && hanging ? HANGING_MS : milliseconds);
    if (waits[1].revents) listen();
    if (options_.parent && getppid() != options_.parent) ended_ = true;
    if (options_.max_idle > 0 && seconds_since(heard_) > options_.max_idle) {
      fprintf(stderr, "no byte for %g seconds (--max-idle): ended\n", options_.max_idle);
      ended_ = true;
    }
  }

  // Words from the parent, a line each.
  void listen() {
    char text[256];
    const ssize_t got = read(STDIN_FILENO, text, sizeof text);
    if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) ended_ = true;
    for (ssize_t i = 0; i < got; i++) {
      if (text[i] != '\n') {
        word_ += text[i];
        continue;
      }
      obey(word_);
      word_.clear();
    }
  }

  void obey(const std::string& word) {
    if (word == "stats") return say_stats();
    if (word == "pause") paused_ = true;
    else if (word == "resume") paused_ = false;
    else if (word == "unplug") port_->unplug();
    else if (word == "plug") port_->plug();
    else if (word == "reset") {
      in_.clear();
      board_.reset();
    } else fprintf(stderr, "unknown word '%s'\n", word.c_str());
    say_url();
  }

  void say_url() {
    printf("{\"url\": \"%s\", \"pid\": %d}\n", port_->url().c_str(), getpid());
    fflush(stdout);
  }

  void say_stats() {
    printf("{\"cycles\": %llu, \"busy_seconds\": %.6f, \"connections\": %d, \"connected\": %s, \"idle\": %s}\n",
           static_cast<unsigned long long>(board_.cycles()), busy_seconds_, connections_,
           port_->connected() ? "true" : "false", in_.empty() && board_.idle() ? "true" : "false");
    fflush(stdout);
  }

  const Options options_;
  std::unique_ptr<Port> port_;
  Board board_;
  Bytes in_{1 << 16}, out_{1 << 14};
  std::string word_;
  bool ended_ = false, paused_ = false;
  int connections_ = 0;
  double busy_seconds_ = 0;
  Clock::time_point heard_ = Clock::now();
};

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
#ifdef __linux__
    // Also ends a model that hangs. Asked for only where the thread that started this process lives as long as its
    // process does, because that thread's end is what the kernel watches.
    if (options.die_with_thread) prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    if (options.parent && getppid() != options.parent) return 0;
    VerilatedContext context;
    context.commandArgs(argc, argv);
    Simulation(options, context).serve();
  } catch (const std::exception& error) {
    fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
