#version 450
layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint D = 64;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_peak_params p; };

void main()
{
}
