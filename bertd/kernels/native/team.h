// Threads that share one forward: for a lone row, whose layers can only be split inside.
//
// Helpers sleep unless a forward has claimed them; inside a forward they spin for a bounded time
// between steps, then yield. Work is claimed piece by piece, so that a helper which the system does
// not schedule delays the others by at most the one piece that it holds.
#pragma once

namespace bertd {

class Team;

// Calls work(context, piece, member) for every piece in [0, pieces), on all members; returns when
// all are done. At most 65535 pieces. Without a team everything runs here, as member 0.
void run_pieces(Team* team, int pieces, void (*work)(void*, int, int), void* context);

// How many members a team has, this thread included; 1 without a team.
int team_size(const Team* team);

// A team of up to `threads` members, as many as there are threads to be had; null when that is one.
Team* open_team(int threads);
void close_team(Team* team);

}  // namespace bertd
