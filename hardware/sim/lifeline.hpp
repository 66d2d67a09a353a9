// The process that started the simulator: its words, and its end, whatever way it ends.
//
// Two lines: standard input, a pipe that closes with its writer, and a pidfd of the parent, for when children of the parent
// hold the pipe open. A third where the starter asks for it, PR_SET_PDEATHSIG: it ends even a simulator that hangs, but
// fires when the *thread* that started us ends, so only a thread that lives as long as its process may ask.
#pragma once

#include <string>
#include <vector>

#include <poll.h>

class Lifeline {
public:
    // `parent` is the process expected as ours; 0: only watch standard input.
    Lifeline(int parent, bool die_with_thread);
    ~Lifeline();
    Lifeline(const Lifeline&) = delete;
    Lifeline& operator=(const Lifeline&) = delete;

    void watch(std::vector<pollfd>& fds) const;
    // Reads what the parent says. False once it has ended, or closed our standard input.
    bool listen();
    // The lines that it has said since the last call.
    std::vector<std::string> words();

private:
    int parent_, pidfd_ = -1;
    std::string heard_;
};
