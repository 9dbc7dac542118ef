// The update rule, for one parameter: see gpubp/rule.py.
//
// rule.cuh is no file but the rule's formulas; source.py writes it. Momentum's is, for example,
//
//     struct Rule { T eta_, mu_; };
//     update(T& w, T* state, long long apart, T g, const Rule& rule):  v = mu v - eta g,  w = w + v
//
// and update_penalised, the same under the slope of the penalty, which slope_penalised adds to g.
// The state, here v, is STATES
// numbers, number k of them at state[k * apart]; without any nothing is read there. g is the
// gradient of the mean cost. Rule is the numbers of a step, which change from one to the next.

#include "rule.cuh"

constexpr int NUMBERS = sizeof(Rule) / sizeof(T);

// Row ``step`` of a table of such numbers.
__device__ inline const Rule& rule_of(const T* numbers, long long step)
{
    return *reinterpret_cast<const Rule*>(numbers + step * NUMBERS);
}

// 1/2 l2 w^2 + l1 |w|
__device__ inline double penalty_of(T w, const Rule& rule)
{
#if PENALTY
    return 0.5 * double(rule.l2_) * w * w + double(rule.l1_) * absolute(w);
#else
    return 0;
#endif
}

// One step of one weight, which is penalised; the penalty of the weight before it.
__device__ inline double update_weight(T& w, T* state, long long apart, T g, const Rule& rule)
{
    const double penalty = penalty_of(w, rule);
    update_penalised(w, state, apart, g, rule);
    return penalty;
}
