// Where the host plugs in: a pseudo-terminal or a TCP port of the loopback interface. Nothing here ever blocks.
#pragma once
#include <memory>
#include <string>

#include "bytes.hpp"

class Port {
 public:
  virtual ~Port() = default;

  // What to open on the host's side: a device path or socket://127.0.0.1:PORT. Empty while unplugged.
  virtual std::string url() const = 0;
  // Is a host there? Bytes for nobody are lost, as on a cable that ends in the air.
  virtual bool connected() const = 0;
  // Take what the host has sent, as much as `in` has room for. Notices hosts that come and go; true when one came.
  virtual bool receive(Bytes& in) = 0;
  // Give what the host takes of `out`; without a host, all of it goes nowhere.
  virtual void send(Bytes& out) = 0;
  // The descriptor to poll for input (and for output, where a host is there), or -1: look again soon.
  virtual int descriptor() const = 0;
  // Pull the cable, and put it back.
  virtual void unplug() = 0;
  virtual void plug() = 0;
};

// Throw std::runtime_error where the system refuses; `port` 0 lets it choose.
std::unique_ptr<Port> open_pty();
std::unique_ptr<Port> open_tcp(int port);
