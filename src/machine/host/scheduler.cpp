#include "machine/host/scheduler.hpp"

#include <thread>
#include <utility>

namespace terrazzo::host {
namespace {

/// Rounds without progress before the thread gives its core away.
constexpr uint32_t kSpinRounds = 64;

std::vector<Role*> roles_of(std::span<Sm* const> sms) {
  std::vector<Role*> roles;
  for (Sm* const sm : sms) {
    for (Role& role : sm->roles) {
      roles.push_back(&role);
    }
  }
  return roles;
}

std::vector<BlockedRole> blocked_roles(const std::vector<Role*>& roles) {
  std::vector<BlockedRole> out;
  for (const Role* const role : roles) {
    if (!role->fiber.done()) {
      out.push_back(role->report());
    }
  }
  return out;
}

/// After an abort: every role that still lives unwinds its stack.
void unwind(const std::vector<Role*>& roles) {
  for (Role* const role : roles) {
    while (!role->fiber.done()) {
      role->fiber.resume();
    }
  }
}

}  // namespace

void run_round_robin(std::span<Sm* const> sms, Launch& launch) {
  const std::vector<Role*> roles = roles_of(sms);
  size_t live = roles.size();
  uint32_t idle_rounds = 0;
  uint64_t last_stamp = 0;
  auto last_progress = std::chrono::steady_clock::now();
  auto last_look = last_progress;
  while (live > 0 && !launch.aborted()) {
    bool progress = false;
    for (Role* const role : roles) {
      if (!role->fiber.done() && role->ready()) {
        role->fiber.resume();
        live -= role->fiber.done() ? 1 : 0;
        progress = true;
      }
    }
    if (progress) {
      launch.note_progress();
      idle_rounds = 0;
      continue;
    }
    const auto now = std::chrono::steady_clock::now();
    // Rounds are short: a long gap between two means that the whole process was stopped.
    const bool stopped = now - std::exchange(last_look, now) > launch.watchdog() / 2;
    const uint64_t stamp = launch.progress();
    const bool others_go_on = std::exchange(last_stamp, stamp) != stamp;
    if (idle_rounds++ == 0 || stopped || others_go_on) {
      last_progress = now;
    } else if (now - last_progress > launch.watchdog()) {
      launch.fail(FailureKind::kWatchdog, "no progress within the watchdog's limit",
                  blocked_roles(roles));
    }
    if (idle_rounds > kSpinRounds) {
      std::this_thread::yield();
    }
  }
  unwind(roles);
}

void run_adversary(std::span<Sm* const> sms, Launch& launch, Checker& checker, CopyQueue& copies) {
  const std::vector<Role*> roles = roles_of(sms);
  const bool late = checker.options.lateness == Lateness::kLate;
  std::vector<Role*> ready;
  while (!launch.aborted()) {
    ready.clear();
    bool live = false;
    for (Role* const role : roles) {
      if (!role->fiber.done()) {
        live = true;
        if (role->ready()) {
          ready.push_back(role);
        }
      }
    }
    if (!live && copies.pending.empty()) {
      return;
    }
    if (ready.empty() && copies.pending.empty()) {
      launch.fail(FailureKind::kDeadlock, "all roles are blocked", blocked_roles(roles));
      break;
    }
    const size_t choices = ready.size() + (late && !ready.empty() ? 0 : copies.pending.size());
    const size_t choice = checker.random() % choices;
    if (choice < ready.size()) {
      ready[choice]->fiber.resume();
      continue;
    }
    try {
      Role::land(copies, choice - ready.size(), checker);
    } catch (const Error& error) {
      launch.fail(FailureKind::kCheck, error.what(), blocked_roles(roles));
    }
  }
  unwind(roles);
}

}  // namespace terrazzo::host
