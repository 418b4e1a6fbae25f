#version 450

#include "kept.glsl"

layout(push_constant) uniform Push { kept_rotate_params p; };

void main()
{
}
