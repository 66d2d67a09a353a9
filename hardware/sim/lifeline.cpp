#include "lifeline.hpp"

#include <sys/syscall.h>
#include <unistd.h>

Lifeline::Lifeline(int parent) : parent_(parent) {
    if (parent > 0) pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, parent, 0));
}

Lifeline::~Lifeline() {
    if (pidfd_ >= 0) close(pidfd_);
}

void Lifeline::watch(std::vector<pollfd>& fds) const {
    fds.push_back({STDIN_FILENO, POLLIN, 0});
    if (pidfd_ >= 0) fds.push_back({pidfd_, POLLIN, 0});
}

bool Lifeline::cut() const {
    // Another parent: ours ended before we looked, or this kernel has no pidfd.
    if (parent_ > 0 && getppid() != parent_) return true;
    pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}, {pidfd_, POLLIN, 0}};
    if (poll(fds, pidfd_ >= 0 ? 2 : 1, 0) <= 0) return false;
    if (pidfd_ >= 0 && fds[1].revents != 0) return true;
    if (fds[0].revents == 0) return false;
    char ignored[64];
    return read(STDIN_FILENO, ignored, sizeof ignored) <= 0;
}
