#version 450
layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint D = 64;
layout(constant_id = 3) const uint KT = 1;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_score_params p; };

void main()
{
}
