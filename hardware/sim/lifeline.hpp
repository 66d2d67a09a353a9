// Ends the simulator with the process that started it, whatever way that one ends.
//
// Two lines: standard input, a pipe that closes with its writer, and a pidfd of the parent, for when children of the parent
// hold the pipe open. Not PR_SET_PDEATHSIG: that fires when the *thread* that started us ends.
#pragma once

#include <vector>

#include <poll.h>

class Lifeline {
public:
    // `parent` is the process expected as ours; 0: only watch standard input.
    explicit Lifeline(int parent);
    ~Lifeline();
    Lifeline(const Lifeline&) = delete;
    Lifeline& operator=(const Lifeline&) = delete;

    void watch(std::vector<pollfd>& fds) const;
    // True once the parent has ended, or closed our standard input.
    bool cut() const;

private:
    int parent_, pidfd_ = -1;
};
