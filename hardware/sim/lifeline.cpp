#include "lifeline.hpp"

#include <csignal>

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

Lifeline::Lifeline(int parent, bool die_with_thread) : parent_(parent) {
    if (die_with_thread) prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (parent > 0) pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, parent, 0));
}

Lifeline::~Lifeline() {
    if (pidfd_ >= 0) close(pidfd_);
}

void Lifeline::watch(std::vector<pollfd>& fds) const {
    fds.push_back({STDIN_FILENO, POLLIN, 0});
    if (pidfd_ >= 0) fds.push_back({pidfd_, POLLIN, 0});
}

bool Lifeline::listen() {
    // Another parent: ours ended before we looked, or this kernel has no pidfd.
    if (parent_ > 0 && getppid() != parent_) return false;
    pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}, {pidfd_, POLLIN, 0}};
    if (poll(fds, pidfd_ >= 0 ? 2 : 1, 0) <= 0) return true;
    if (pidfd_ >= 0 && fds[1].revents != 0) return false;
    if (fds[0].revents == 0) return true;
    char text[256];
    const ssize_t count = read(STDIN_FILENO, text, sizeof text);
    if (count <= 0) return false;
    heard_.append(text, static_cast<size_t>(count));
    return true;
}

std::vector<std::string> Lifeline::words() {
    std::vector<std::string> lines;
    for (size_t end; (end = heard_.find('\n')) != std::string::npos; heard_.erase(0, end + 1))
        lines.push_back(heard_.substr(0, end));
    return lines;
}
