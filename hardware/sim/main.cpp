// The RTL, cycle by cycle, behind a serial port. Prints two lines, then serves until its standard input closes:
//
//     /dev/pts/N                 a path for serial_for_url
//     socket://127.0.0.1:PORT    the same board over TCP
//
// While the board has nothing to do its clock stands still, so its counters count working cycles.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "Vtop.h"
#include "endpoint.hpp"
#include "lifeline.hpp"
#include "pins.hpp"
#include "verilated.h"

namespace {

volatile std::sig_atomic_t stopped = 0;

struct Options {
    uint16_t port = 0;
    int parent = 0;
    double watts = 0;  // modelled power; 0: no energy meter
};

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; i += 2) {
        const std::string name = argv[i];
        if (i + 1 == argc) throw std::runtime_error(name + " lacks its value");
        if (name == "--port") options.port = static_cast<uint16_t>(std::stoi(argv[i + 1]));
        else if (name == "--parent") options.parent = std::stoi(argv[i + 1]);
        else if (name == "--modelled-watts") options.watts = std::stod(argv[i + 1]);
        else throw std::runtime_error(name + ": unknown; valid: --port N, --parent PID, --modelled-watts W");
    }
    return options;
}

// Running totals of a meter that does not exist, from a constant power: always marked as modelled.
void report_energy(Vtop& top, double watts, uint64_t cycles) {
    if (watts <= 0) return;
    const double seconds = static_cast<double>(cycles) / MX_CLOCK_HZ;
    top.energy_source = 2;
    top.energy_scope = 2;
    top.energy_samples = 1;
    top.energy_microjoules = static_cast<uint64_t>(watts * seconds * 1e6);
    top.energy_nanoseconds = static_cast<uint64_t>(seconds * 1e9);
}

void serve(const Options& options) {
    constexpr size_t AT_ONCE = 65536;
    constexpr int CYCLES = 4096;
    VerilatedContext context;
    context.randReset(0);
    const auto top = std::make_unique<Vtop>(&context);
    Lifeline lifeline(options.parent);
    Endpoint endpoint(options.port);
    std::printf("%s\nsocket://127.0.0.1:%u\n", endpoint.pty_path().c_str(), endpoint.port());
    std::fflush(stdout);

    Pins pins(*top);
    pins.reset();
    uint64_t cycles = 0;
    std::deque<uint8_t> incoming, outgoing;
    std::vector<pollfd> fds;
    while (!stopped && !lifeline.cut()) {
        endpoint.receive(incoming, AT_ONCE);
        bool working = !incoming.empty() || !pins.idle();
        report_energy(*top, options.watts, cycles);
        for (int i = 0; working && i < CYCLES; i++) {
            pins.cycle(incoming, outgoing, outgoing.size() < AT_ONCE);
            cycles++;
            working = !incoming.empty() || !pins.idle();
        }
        endpoint.send(outgoing);
        if (working && outgoing.size() < AT_ONCE) continue;
        fds.clear();
        lifeline.watch(fds);
        endpoint.watch(fds, !outgoing.empty());
        poll(fds.data(), fds.size(), endpoint.nobody_on_pty() ? 10 : 1000);
    }
    top->final();
}

}  // namespace

int main(int argc, char** argv) {
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) std::signal(signal, [](int) { stopped = 1; });
    std::signal(SIGPIPE, SIG_IGN);
    try {
        serve(parse(argc, argv));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "mx_fpga simulator: %s\n", error.what());
        return 1;
    }
    return 0;
}
