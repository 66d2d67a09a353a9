// The RTL, cycle by cycle, behind a serial port. Serves until its standard input closes. Says a line of JSON when the port
// is open, and another in answer to each word on its standard input:
//
//     stats            what has been done so far
//     reset            press the board's reset button
//     pause, resume    stop the board's clock, and let it run again
//     unplug, plug     pull the cable, and put it back
//
// While the board has nothing to do its clock stands still, so its counters count working cycles.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "Vtop.h"
#include "endpoint.hpp"
#include "lifeline.hpp"
#include "pins.hpp"
#include "verilated.h"

namespace {

volatile std::sig_atomic_t stopped = 0;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Options {
    bool pty = true;
    int port = -1;  // of TCP; 0: any free one, negative: none
    int parent = 0;
    bool die_with_thread = false;
    double watts = 0;     // modelled power; 0: no energy meter
    double max_idle = 0;  // seconds without a byte from a host after which to end; 0: never
};

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; i += 2) {
        const std::string name = argv[i];
        if (i + 1 == argc) throw std::runtime_error(name + " lacks its value");
        const std::string value = argv[i + 1];
        if (name == "--pty") options.pty = std::stoi(value) != 0;
        else if (name == "--port") options.port = std::stoi(value);
        else if (name == "--parent") options.parent = std::stoi(value);
        else if (name == "--die-with-thread") options.die_with_thread = std::stoi(value) != 0;
        else if (name == "--modelled-watts") options.watts = std::stod(value);
        else if (name == "--max-idle") options.max_idle = std::stod(value);
        else throw std::runtime_error(name + ": unknown; valid: --pty 0|1, --port N, --parent PID, --die-with-thread 0|1, "
                                             "--modelled-watts W, --max-idle S");
    }
    if (!options.pty && options.port < 0) throw std::runtime_error("--pty 0 without --port: nothing to listen on");
    return options;
}

class Simulation {
public:
    Simulation(const Options& options, VerilatedContext& context)
        : options_(options), lifeline_(options.parent, options.die_with_thread), endpoint_(options.pty, options.port),
          top_(std::make_unique<Vtop>(&context)), pins_(*top_) {
        pins_.reset();
    }
    ~Simulation() { top_->final(); }

    void serve() {
        say_urls();
        while (!stopped && lifeline_.listen() && !abandoned()) {
            for (const std::string& word : lifeline_.words()) obey(word);
            hear();
            if (working()) advance();
            endpoint_.send(outgoing_);
            if (!working()) wait();
        }
    }

private:
    static constexpr size_t AT_ONCE = 65536;
    static constexpr int CYCLES = 4096;          // between two looks at the world
    static constexpr int NOBODY_MS = 30, REST_MS = 1000;

    // Is there anything to do that can be done? A board whose answers nobody takes waits, like its host.
    bool working() const {
        return !paused_ && outgoing_.size() < AT_ONCE && !finished();
    }

    // The board has done all that it was asked for: another host may come.
    bool finished() const { return incoming_.empty() && pins_.idle(); }

    void hear() {
        const size_t had = incoming_.size();
        endpoint_.receive(incoming_, AT_ONCE, finished());
        if (incoming_.size() > had) last_byte_ = Clock::now();
    }

    void advance() {
        const auto start = Clock::now();
        report_energy();
        for (int i = 0; i < CYCLES && !finished(); i++) {
            pins_.cycle(incoming_, outgoing_, outgoing_.size() < AT_ONCE);
            cycles_++;
        }
        busy_seconds_ += seconds_since(start);
    }

    // Running totals of a meter that does not exist, from a constant power: always marked as modelled.
    void report_energy() {
        if (options_.watts <= 0) return;
        const double seconds = static_cast<double>(cycles_) / MX_CLOCK_HZ;
        top_->energy_source = 2;
        top_->energy_scope = 2;
        top_->energy_samples = 1;
        top_->energy_microjoules = static_cast<uint64_t>(options_.watts * seconds * 1e6);
        top_->energy_nanoseconds = static_cast<uint64_t>(seconds * 1e9);
    }

    void wait() {
        std::vector<pollfd> fds;
        lifeline_.watch(fds);
        endpoint_.watch(fds, incoming_.size() < AT_ONCE, !outgoing_.empty(), finished());
        poll(fds.data(), fds.size(), endpoint_.awaits_pty() ? NOBODY_MS : REST_MS);
    }

    bool abandoned() const {
        if (options_.max_idle <= 0 || seconds_since(last_byte_) <= options_.max_idle) return false;
        std::fprintf(stderr, "no byte came for %g seconds (--max-idle)\n", options_.max_idle);
        return true;
    }

    void obey(const std::string& word) {
        if (word == "stats") return say_stats();
        if (word == "pause") paused_ = true;
        else if (word == "resume") paused_ = false;
        else if (word == "unplug") endpoint_.unplug();
        else if (word == "plug") endpoint_.plug();
        else if (word == "reset") {
            hear();
            incoming_.clear();  // a board in reset takes nothing of what arrives
            pins_.reset();
        } else std::fprintf(stderr, "unknown word '%s'\n", word.c_str());
        say_urls();
    }

    void say_urls() const {
        std::printf("{\"pty\": \"%s\", \"socket\": \"%s\"}\n", endpoint_.pty().c_str(), endpoint_.socket().c_str());
        std::fflush(stdout);
    }

    void say_stats() const {
        std::printf("{\"cycles\": %llu, \"busy_seconds\": %.6f, \"connections\": %d, \"connected\": %s, \"idle\": %s}\n",
                    static_cast<unsigned long long>(cycles_), busy_seconds_, endpoint_.connections(),
                    endpoint_.connected() ? "true" : "false", finished() ? "true" : "false");
        std::fflush(stdout);
    }

    const Options options_;
    Lifeline lifeline_;
    Endpoint endpoint_;
    std::unique_ptr<Vtop> top_;
    Pins pins_;
    std::deque<uint8_t> incoming_, outgoing_;
    bool paused_ = false;
    uint64_t cycles_ = 0;
    double busy_seconds_ = 0;
    Clock::time_point last_byte_ = Clock::now();
};

}  // namespace

int main(int argc, char** argv) {
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) std::signal(signal, [](int) { stopped = 1; });
    std::signal(SIGPIPE, SIG_IGN);
    try {
        VerilatedContext context;
        context.randReset(0);
        Simulation(parse(argc, argv), context).serve();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "mx_fpga simulator: %s\n", error.what());
        return 1;
    }
    return 0;
}
