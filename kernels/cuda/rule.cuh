// The update rule of gpubp/optimiser.py, for one parameter at a time.

struct Rule { T eta, momentum, l2, l1; };

// One step of one parameter p with velocity v, by the gradient g of the mean cost.
__device__ inline void update(T& p, T* v, T g, const Rule& rule)
{
    const T step = rule.eta * g;
#if MOMENTUM
    const T velocity = rule.momentum * *v - step;
    *v = velocity;
    p += NESTEROV ? rule.momentum * velocity - step : velocity;
#else
    p -= step;
#endif
}

#if PENALTY
// What the penalty of a weight adds to the cost, and to the gradient.
__device__ inline double penalty_of(T w, const Rule& rule)
{
    return 0.5 * double(rule.l2) * w * w + double(rule.l1) * absolute(w);
}
__device__ inline T penalised(T g, T w, const Rule& rule)
{
    g += rule.l2 * w;
    return g + rule.l1 * T((w > T(0)) - (w < T(0)));
}
#endif
