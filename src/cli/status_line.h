#pragma once

// How far something is, on stderr: one line that is written over on a terminal, else a line a
// change. One thread.

#include <cstdio>
#include <string>

#include "cli/terminal.h"

namespace fathom::cli {

class StatusLine {
 public:
  ~StatusLine() {
    if (terminal_ && shown_) std::fputs("\r\x1b[K", stderr);
  }
  void Show(const std::string& text) {
    shown_ = true;
    std::fputs(terminal_ ? ("\r\x1b[K" + text).c_str() : (text + "\n").c_str(), stderr);
    std::fflush(stderr);
  }

 private:
  const bool terminal_ = StderrIsTerminal();
  bool shown_ = false;
};

}  // namespace fathom::cli
