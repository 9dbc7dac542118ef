// The update rule, for one parameter: see gpubp/optimiser.py.
//
//     plain     p <- p - eta g
//     momentum  v <- mu v - eta g,  p <- p + v           Nesterov's: p <- p + mu v - eta g

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

// One step of one weight, which is penalised; 1/2 l2 w^2 + l1 |w| of the weight before it.
__device__ inline double update_weight(T& w, T* v, T g, const Rule& rule)
{
    double penalty = 0;
#if PENALTY
    const T before = w;
    penalty = 0.5 * double(rule.l2) * before * before + double(rule.l1) * absolute(before);
    g += rule.l2 * before;
    g += rule.l1 * T((before > T(0)) - (before < T(0)));
#endif
    update(w, v, g, rule);
    return penalty;
}
